"""Runs whose rows grow: the recipe in steps, the rows of each step, and what the log says of them."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file
from trainer_stop import Stop

from athanor.core.rows import read_rows
from athanor.models.counts import flops_per_token
from athanor.tasks.trainer.process.exit_codes import Preempted
from athanor.tasks.trainer.process.stop_request import StopRequest
from athanor.tasks.trainer.run import train
from athanor.tasks.trainer.start import read_spec

SHORTER = [{"seq_len_tokens": 8, "until_fraction": 0.3}, {"seq_len_tokens": 16, "until_fraction": 0.5}]


def steps_of(folder):
    return [row for row in read_rows(folder / "metrics.jsonl") if row["kind"] == "step"]


def test_a_run_over_phases_logs_them_and_continues_across_a_change_over_to_the_same_end(make_run):
    fields = {"family": "polychromatic", "train": {"length_phases": SHORTER}}
    whole, cut = make_run("whole", **fields), make_run("cut", **fields)
    train(whole, StopRequest())
    with pytest.raises(Preempted, match="step 3"):
        train(cut, Stop(4))
    train(cut, StopRequest())
    steps = steps_of(whole)
    lengths = [8] * 4 + [16] * 2 + [32] * 6
    assert [sum(row["mix"].values()) for row in steps] == [256 // length for length in lengths]
    assert [row["tokens"] for row in steps] == [256 * step for step in range(1, 13)]
    for row, length in zip(steps, lengths, strict=True):
        flops = flops_per_token(read_spec(whole).model, length)
        assert row["flops_per_s"] / row["tokens_per_s"] == pytest.approx(flops.forward + flops.backward)
    assert [row["loss"] for row in steps_of(cut)] == [row["loss"] for row in steps]
    weights, expected = load_file(cut / "model.safetensors"), load_file(whole / "model.safetensors")
    assert all(torch.equal(weights[name], expected[name]) for name in expected)


def test_the_filter_of_the_recipe_reaches_the_batches_and_the_log(make_run):
    everything = {"max_token_share": 1e-9}
    mixture = {"start": {"one": 1.0, "two": 0.0}, "filter": everything}
    folder = make_run("run", train={"steps": 3}, mixture=mixture)
    train(folder, StopRequest())
    assert [row["ignored_rows"] for row in steps_of(folder)] == [8, 8, 8]

"""Runs whose rows grow: the recipe in steps, the rows of each step, and what the log says of them."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file
from trainer_stop import Stop

from athanor.core.errors import UserError
from athanor.core.keys import canonical_json
from athanor.core.rows import read_rows
from athanor.data.data_recipe import MixtureRecipe
from athanor.data.phases import Phase
from athanor.models.counts import flops_per_token
from athanor.tasks.trainer.process.exit_codes import Preempted
from athanor.tasks.trainer.process.stop_request import StopRequest
from athanor.tasks.trainer.run import train
from athanor.tasks.trainer.start import read_spec
from athanor.tasks.trainer.step.batches import ReadAhead, build_loader
from athanor.tasks.trainer.train_recipe import TrainRecipe

SHORTER = [{"seq_len_tokens": 8, "until_fraction": 0.3}, {"seq_len_tokens": 16, "until_fraction": 0.5}]


def steps_of(folder):
    return [row for row in read_rows(folder / "metrics.jsonl") if row["kind"] == "step"]


def recipe(**fields) -> TrainRecipe:
    return TrainRecipe.model_validate(
        {"steps": 100, "seq_len_tokens": 2048, "batch_tokens": 16384, "peak_lr": 0.01} | fields
    )


def test_phases_in_steps_keep_the_tokens_of_a_step():
    shorter = [{"seq_len_tokens": 512, "until_fraction": 0.25}, {"seq_len_tokens": 1024, "until_fraction": 0.6}]
    phases = recipe(length_phases=shorter).phases
    assert phases == (Phase(0, 512, 32), Phase(25, 1024, 16), Phase(60, 2048, 8))
    assert recipe().phases == (Phase(0, 2048, 8),)


def test_recipes_without_phases_or_filter_keep_their_keys():
    assert "length_phases" not in canonical_json(recipe())
    assert "filter" not in canonical_json(MixtureRecipe(start={"a": 1.0}))


@pytest.mark.parametrize(
    ("phases", "complaint"),
    [
        ([(300, 0.5)], r"length_phases.0.seq_len_tokens=300 .* 2048, and divide it"),
        ([(2048, 0.5)], r"length_phases.0.seq_len_tokens=2048 must be shorter"),
        ([(1024, 0.2), (512, 0.5)], r"length_phases.0.seq_len_tokens=1024 must be shorter .* 512"),
        ([(512, 0.5), (1024, 0.4)], r"phase 1 would last from step 50 to step 40 of 100"),
        ([(512, 0.001)], r"phase 0 would last from step 0 to step 0"),
        ([(512, 0.999)], r"phase 1 would last from step 100 to step 100"),
        ([], r"at least 1 item"),
    ],
)
def test_phases_that_do_not_follow_are_refused(phases, complaint):
    with pytest.raises(ValueError, match=complaint):
        recipe(length_phases=[{"seq_len_tokens": n, "until_fraction": f} for n, f in phases])


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


def test_reading_ahead_gives_each_step_the_rows_of_its_phase(make_run):
    spec = read_spec(make_run("run", train={"length_phases": SHORTER}))
    loader = build_loader(spec)
    reader = ReadAhead(loader, 12, lambda step: range(loader.batch_rows(step)))
    shapes = [reader.batch(step).ids_BT.shape for step in (*range(2, 12), 0)]
    reader.close()
    assert shapes == [(32, 8)] * 2 + [(16, 16)] * 2 + [(8, 32)] * 6 + [(32, 8)]


def test_the_filter_of_the_recipe_reaches_the_batches_and_the_log(make_run):
    everything = {"max_token_share": 1e-9}
    mixture = {"start": {"one": 1.0, "two": 0.0}, "filter": everything}
    folder = make_run("run", train={"steps": 3}, mixture=mixture)
    train(folder, StopRequest())
    assert [row["ignored_rows"] for row in steps_of(folder)] == [8, 8, 8]


def test_phases_of_packed_conversations_are_refused(make_run, corpus):
    chat = {"objective": "sft", "shard_dirs": {"chat": str(corpus.root / "chat")}, "mixture": None}
    folder = make_run("run", train={"length_phases": SHORTER}, **chat)
    with pytest.raises(UserError, match=r"train\.length_phases: packed conversations"):
        build_loader(read_spec(folder))

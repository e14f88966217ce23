"""Pretraining goes on from a checkpoint: its weights in fp32, a new optimizer, learning rates of its own."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from athanor.core.rows import read_rows
from athanor.models.checkpoints.portable import load_portable
from athanor.tasks.trainer.process.stop_request import StopRequest
from athanor.tasks.trainer.run import train


def trained(spec_of: Path, init: Path | None) -> tuple[dict[str, torch.Tensor], list[dict]]:
    spec = json.loads((spec_of / "run.json").read_text()) | {"init_dir": None if init is None else str(init)}
    (spec_of / "run.json").write_text(json.dumps(spec))
    train(spec_of, StopRequest())
    return load_file(spec_of / "model.safetensors"), [r for r in read_rows(spec_of / "metrics.jsonl")]


def steps_of(rows: list[dict]) -> list[dict]:
    return [row for row in rows if row["kind"] == "step"]


@pytest.mark.parametrize("family", ["polychromatic", "hydra"])
def test_pretraining_goes_on_from_its_weights_with_a_schedule_of_its_own(family, write_run, tmp_path):
    fields = {"steps": 2, "warmup_steps": 1, "eval_every_steps": 2}
    first, before = trained(write_run(tmp_path, "first", family, train=fields), None)
    init = tmp_path / "first"
    more, rows = trained(write_run(tmp_path, "more", family, train=fields), init)
    held_out = {row["step"]: row["held_out"] for row in rows if row["kind"] == "eval"}
    ended = [row for row in before if row["kind"] == "eval"][-1]["held_out"]
    assert held_out[0] == ended != held_out[2]
    assert [row["lr"] for row in steps_of(rows)] == [row["lr"] for row in steps_of(before)]
    assert all(row["schedule"] == load_portable(init).schedule(1.0) for row in steps_of(rows))
    assert any(not torch.equal(more[name], first[name]) for name in first)


def test_weights_of_half_precision_are_trained_in_fp32(write_run, tmp_path):
    trained(write_run(tmp_path, "first", train={"steps": 1, "warmup_steps": 0}), None)
    init = tmp_path / "first"
    half = {name: tensor.bfloat16() for name, tensor in load_file(init / "model.safetensors").items()}
    save_file(half, init / "model.safetensors")
    more, _ = trained(write_run(tmp_path, "more", train={"steps": 1, "warmup_steps": 0}), init)
    assert {tensor.dtype for tensor in more.values()} == {torch.float32}

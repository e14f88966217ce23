"""The flagship: a run that is killed at random points, inside a save too, ends bit-identical to one that is not."""

from __future__ import annotations

import json
import random
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from athanor.core.rows import read_rows
from athanor.models.family import FAMILIES
from athanor.tasks.trainer.process.stop_request import StopRequest
from athanor.tasks.trainer.records.metrics import reproducible_rows
from athanor.tasks.trainer.run import train

STEPS = 40


def tensors_of(folder: Path) -> dict[str, bytes]:
    files = sorted((folder / "checkpoints" / f"step-{STEPS:08d}").glob("*.safetensors"))
    tensors = {name: t for file in [*files, folder / "model.safetensors"] for name, t in load_file(file).items()}
    return {name: bytes(tensor.reshape(-1).view(torch.uint8).numpy()) for name, tensor in tensors.items()}


def kill_when(process, condition) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.001)
    process.kill()
    process.communicate()


@pytest.mark.parametrize("family", list(FAMILIES))
def test_killed_and_resumed_run_equals_the_uninterrupted_one(family, make_run, start_trainer):
    settings = {
        "family": family,
        "train": {"steps": STEPS, "eval_every_steps": 5, "schedule": "wsd"},
        "runtime": {"checkpoint_every_steps": 3},
    }
    whole, cut = make_run("whole", **settings), make_run("cut", **settings)
    train(whole, StopRequest())

    def rows_logged() -> int:
        log = cut / "metrics.jsonl"
        return log.read_bytes().count(b"\n") if log.exists() else 0

    rows = random.randint(2, STEPS // 3)
    kill_when(start_trainer(cut), lambda: rows_logged() >= rows)
    rows = rows_logged() + 3
    kill_when(start_trainer(cut), lambda: any(cut.glob("checkpoints/*.partial/*.json")) and rows_logged() >= rows)
    assert any(cut.glob("checkpoints/*.partial")), "the kill came after the save"
    last = start_trainer(cut)
    _, errors = last.communicate()
    assert last.returncode == 0, errors

    assert reproducible_rows(cut) == reproducible_rows(whole)
    assert len(reproducible_rows(cut)) == STEPS + STEPS // 5 + 1  # the first evaluation comes before the first step
    assert tensors_of(cut) == tensors_of(whole)
    for name in ("loader_fingerprint", "step"):
        one, other = (
            json.loads((folder / "checkpoints" / f"step-{STEPS:08d}" / "manifest.json").read_text())[name]
            for folder in (whole, cut)
        )
        assert one == other
    resumed = [row["step"] for row in read_rows(cut / "metrics.jsonl") if row.get("attempt")]
    assert resumed[0] == 0
    assert resumed[-1] > 0, "nothing was ever resumed"

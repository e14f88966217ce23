"""The flagship: a run that is killed at random points, inside a save too, ends bit-identical to one that is not."""

from __future__ import annotations

import json
import random
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from trainer_stop import Stop, StopWithin

from athanor.core.rows import read_rows
from athanor.models.family import FAMILIES
from athanor.tasks.trainer.process.exit_codes import Preempted
from athanor.tasks.trainer.process.stop_request import StopRequest
from athanor.tasks.trainer.records.metrics import reproducible_rows
from athanor.tasks.trainer.run import train
from athanor.tasks.trainer.start import read_spec
from athanor.tasks.trainer.step.batches import held_out

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


@pytest.mark.parametrize("family", list(FAMILIES))
def test_a_stop_between_slices_forgets_the_step_and_the_run_ends_the_same(family, make_run):
    settings = {
        "family": family,
        "train": {"steps": STEPS // 4, "eval_every_steps": 4, "average_from": 0.5},
        "runtime": {"micro_batch_rows": 2, "checkpoint_every_steps": 3},
    }
    whole, cut = make_run("whole", **settings), make_run("cut", **settings)
    train(whole, Stop())
    for places in (5, 16, 7, 23):  # in an evaluation, and after one, two and three of the four slices of a step
        with pytest.raises(Preempted, match="SIGTERM"):
            train(cut, StopWithin(places))
    train(cut, Stop())
    assert reproducible_rows(cut) == reproducible_rows(whole)
    assert weights(cut) == weights(whole)


def test_a_stop_within_a_step_is_saved_as_the_last_step_left_it(make_run):
    folder = make_run("run", train={"eval_every_steps": 1000}, runtime={"micro_batch_rows": 1})
    with pytest.raises(Preempted, match="stopped at step 2: SIGTERM"):
        train(folder, StopWithin(before_step_3(folder) + 5))
    assert [path.name for path in sorted((folder / "checkpoints").glob("step-*"))] == ["step-00000002"]
    assert [row["step"] for row in read_rows(folder / "metrics.jsonl") if row["kind"] == "step"] == [1, 2]


def before_step_3(folder: Path) -> int:
    """Places that a run passes before its third step: the batches of its first evaluation, and eight slices a step."""
    return evaluation_batches(folder) + 2 * 8


def evaluation_batches(folder: Path) -> int:
    return sum(1 for rows in held_out(read_spec(folder), 32).values() for _ in rows.batches)


def weights(folder: Path) -> dict[str, list[float]]:
    return {name: tensor.flatten().tolist() for name, tensor in load_file(folder / "model.safetensors").items()}

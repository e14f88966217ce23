"""Planted faults: what a bad step leaves behind, in whole runs."""

import json
import math

import pytest
import torch
from safetensors.torch import load_file
from trainer_stop import Stop

from athanor.core.errors import UserError
from athanor.core.rows import read_rows
from athanor.data.loader import _row_keys
from athanor.models.families.vanilla.model import Vanilla
from athanor.models.skeleton import Loss
from athanor.tasks.trainer.course.guard import Guard
from athanor.tasks.trainer.process.exit_codes import Preempted
from athanor.tasks.trainer.run import train
from athanor.tasks.trainer.step.step import Optimization

GUARD = {"anchor_steps": 5, "skips": 3, "rollbacks": 1}
STEPS = 24
BAD_SLOT = 3
EVERY_STEP = {"permanent_every_steps": 1, "checkpoint_every_steps": 1}


@pytest.fixture
def plant(monkeypatch):
    """`plant(steps, factor)`: in these steps (1-based) the loss of slot BAD_SLOT is multiplied by `factor`."""
    healthy = Vanilla.loss
    bad_keys: dict[int, float] = {}

    def loss(self, ids_BT, targets_BT, doc_start_BT=None, row_key_B=None, **other) -> Loss:
        found = healthy(self, ids_BT, targets_BT, doc_start_BT, row_key_B, **other)
        for key in row_key_B.tolist():
            if key in bad_keys:
                found = found._replace(total=found.total * bad_keys[key])
        return found

    monkeypatch.setattr(Vanilla, "loss", loss)

    def plant(steps, factor: float) -> None:
        for step in steps:
            bad_keys[int(_row_keys(0, step - 1, [BAD_SLOT])[0])] = factor

    return plant


def run(make_run, name: str, stop: Stop | None = None, **fields):
    folder = make_run(name, train={"steps": STEPS, "guard": GUARD} | fields)
    train(folder, stop or Stop())
    return folder


def rows(folder, kind):
    return [row for row in read_rows(folder / "metrics.jsonl") if row["kind"] == kind]


def weights(folder) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def checkpoint(folder, step: int) -> dict[str, torch.Tensor]:
    return load_file(next((folder / "checkpoints" / f"step-{step:08d}").glob("*.safetensors")))


def equal(one, other) -> bool:
    return all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("factor", [float("nan"), float("inf"), 1e4])
def test_a_bad_step_is_not_learned_from_and_its_samples_are_named(make_run, plant, factor):
    plant([20], factor)
    folder = run(make_run, "run")
    steps = [row["step"] for row in rows(folder, "step")]
    assert steps == [step for step in range(1, STEPS + 1) if step != 20]
    assert all(math.isfinite(row["loss"]) for row in rows(folder, "step"))
    assert any("skipped step 20" in row["message"] for row in rows(folder, "event"))
    assert all(torch.isfinite(tensor).all() for tensor in weights(folder).values())
    noted = list(read_rows(folder / "bad_samples.jsonl"))
    assert noted[0]["step"] == 20
    assert noted[0]["slot"] == BAD_SLOT, "the worst row comes first"
    assert noted[0]["source"] in ("one", "two")
    ((first, last),) = noted[0]["documents"]
    assert 0 <= first <= last


def test_a_skipped_step_changes_no_bit_of_weights_or_optimizer(make_run, plant):
    plant([20], float("nan"))
    folder = make_run("run", train={"steps": STEPS, "guard": GUARD}, runtime=EVERY_STEP)
    train(folder, Stop())
    before, after, later = (checkpoint(folder, step) for step in (19, 20, 21))
    assert equal(before, after)
    assert not equal(after, later)


def test_bad_steps_in_a_row_roll_back_to_the_anchor_and_leave_the_span_behind(make_run, plant):
    plant([17, 18, 19], float("nan"))
    folder = run(make_run, "run")
    messages = [row["message"] for row in rows(folder, "event")]
    assert "rolled back to the weights of step 15; going on with the data of step 20" in messages
    assert [row["step"] for row in rows(folder, "step")] == [*range(1, 17), *range(20, STEPS + 1)]
    assert json.loads((folder / "summary.json").read_text())["rollbacks"] == 1


def test_a_checkpoint_among_the_bad_steps_is_no_anchor(make_run, plant):
    plant([15, 16, 17], float("nan"))
    folder = run(make_run, "run")  # it saves at step 15
    messages = [row["message"] for row in rows(folder, "event")]
    assert "rolled back to the weights of step 10; going on with the data of step 18" in messages


@pytest.fixture
def measured(monkeypatch):
    """(key of the noise, tau of the model) of every step that is computed."""
    found, measure = [], Optimization.measure

    def seen(self, batch, step_key):
        found.append((step_key, dict(self.engine.model.named_buffers())["tau"].item()))
        return measure(self, batch, step_key)

    monkeypatch.setattr(Optimization, "measure", seen)
    return found


def test_the_noise_of_a_step_is_its_own_and_the_same_in_every_run(make_run, measured):
    for name in ("one", "two"):
        train(make_run(name, family="polychromatic", train={"steps": 5}), Stop())
    keys = [key for key, _ in measured]
    assert len(set(keys[:5])) == 5 and keys[:5] == keys[5:]


def test_schedules_go_on_after_a_step_that_is_not_learned_from(make_run, measured, monkeypatch):
    problem = Guard.problem
    monkeypatch.setattr(
        Guard, "problem", lambda self, *asked: "planted" if len(measured) == 3 else problem(self, *asked)
    )
    train(make_run("run", family="polychromatic", train={"steps": 6}), Stop())
    assert [tau for _, tau in measured] == pytest.approx([1 - 0.9 * step / 6 for step in range(6)])


def test_a_run_that_keeps_diverging_stops_with_the_reason(make_run, plant):
    plant(range(12, STEPS + 1), float("nan"))
    with pytest.raises(UserError, match=r"diverged at step 17 .*after 1 rollbacks; lower peak_lr \(now 0\.003\)"):
        run(make_run, "run")


def test_divergence_before_the_first_anchor_is_one_line(make_run, plant):
    plant([1, 2, 3], float("inf"))
    with pytest.raises(UserError, match="before the first checkpoint; lower peak_lr"):
        run(make_run, "run")


@pytest.mark.parametrize("looks", [17, 18, 19, 20, 21])
def test_a_run_stopped_among_bad_steps_ends_as_the_uninterrupted_one(make_run, plant, looks):
    plant([10, 17, 18, 19], float("nan"))
    whole = run(make_run, "whole", average_from=0.5)
    with pytest.raises(Preempted):
        run(make_run, "cut", Stop(looks), average_from=0.5)
    cut = whole.parent / "cut"
    train(cut, Stop())
    assert equal(weights(whole), weights(cut))


@pytest.mark.parametrize("family", ["vanilla", "polychromatic", "hydra", "swa_mla"])
def test_recomputing_blocks_changes_no_bit(make_run, family):
    folders = [
        make_run(f"every-{n}", family=family, train={"steps": 4}, runtime={"recompute_blocks": n}) for n in (None, 1, 2)
    ]
    for folder in folders:
        train(folder, Stop())
    assert equal(weights(folders[0]), weights(folders[1]))
    assert equal(weights(folders[0]), weights(folders[2]))


def test_a_budget_that_runs_out_ends_the_run_early_and_whole(make_run):
    whole = make_run("whole", train={"steps": 100_000, "eval_every_steps": 1_000_000})
    spec = json.loads((whole / "run.json").read_text())
    spec["runtime"]["budget_s"] = 4.0
    (whole / "run.json").write_text(json.dumps(spec))
    train(whole, Stop())
    summary = json.loads((whole / "summary.json").read_text())
    assert 0 < summary["steps"] < 100_000
    assert summary["cuts"][-1]["end"] == summary["steps"]
    assert rows(whole, "step")[-1]["lr"] < 0.1 * max(row["lr"] for row in rows(whole, "step"))
    assert any("of budget left" in row["message"] for row in rows(whole, "event"))
    assert rows(whole, "eval")[-1]["step"] == summary["steps"]


def test_a_budget_for_less_than_a_step_is_refused_in_one_line(make_run):
    with pytest.raises(UserError, match=r"budget of 0 device seconds is spent before the first step"):
        folder = make_run("run", runtime={"budget_s": 0.001})
        train(folder, Stop())

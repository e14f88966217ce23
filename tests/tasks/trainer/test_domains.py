"""A run whose sources have experts of their own: routers are taught them for a while, whatever the micro-batches."""

import pytest

from athanor.core.rows import read_rows
from athanor.tasks.trainer.process.stop_request import StopRequest
from athanor.tasks.trainer.run import read_spec, train

SECTION = {
    "recursions": 1,
    "capacity": 1,
    "experts": 4,
    "moe_layers": 1,
    "domain_experts": {"one": [1], "two": [2, 3]},
    "domain_until": 0.5,
    "domain_loss": 1.0,
}
STEPS = 20


def lessons(folder):
    """The lesson's loss in each step that had one."""
    spec = read_spec(folder)
    model = {**spec.model.model_dump(), "family": "hydra", "hydra": SECTION}
    (folder / "run.json").write_text(spec.model_validate({**spec.model_dump(), "model": model}).model_dump_json())
    train(folder, StopRequest())
    steps = [row for row in read_rows(folder / "metrics.jsonl") if row["kind"] == "step"]
    return {row["step"]: row["aux"]["domain"] for row in steps if "domain" in row["aux"]}


def test_the_trainer_tells_the_model_the_source_of_every_row(make_run):
    train_fields = {"steps": STEPS, "eval_every_steps": STEPS, "peak_lr": 1e-2}
    whole = lessons(make_run("whole", train=train_fields, runtime={"micro_batch_rows": 8}))
    assert list(whole) == list(range(1, 11))
    assert whole[1] == pytest.approx(1.16, abs=0.15)  # 0.7 ln 4 + 0.3 ln 2, choosing at random
    assert whole[10] < 0.6 * whole[1]
    sliced = lessons(make_run("sliced", train=train_fields, runtime={"micro_batch_rows": 3}))
    assert list(sliced.values()) == pytest.approx(list(whole.values()), rel=0.05)

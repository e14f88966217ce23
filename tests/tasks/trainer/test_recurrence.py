"""A depth-recurrent run: one draw of the recurrence per step, whatever the micro-batches and interruptions."""

import pytest
import torch
from trainer_stop import Stop

from athanor.core.rows import read_rows
from athanor.data.permutation import hash64
from athanor.models.checkpoints.portable import load_portable
from athanor.models.families.huginn.recipe import HuginnRecipe
from athanor.models.families.huginn.recurrence import draw_recurrence
from athanor.tasks.trainer.process.exit_codes import Preempted
from athanor.tasks.trainer.run import train
from athanor.tasks.trainer.start import read_spec

SECTION = {"prelude_layers": 1, "coda_layers": 1, "mean_recurrence": 4, "backprop_depth": 2}
STEPS = 8


@pytest.fixture
def run(make_run):
    def make(name, **runtime):
        folder = make_run(name, train={"steps": STEPS, "eval_every_steps": STEPS}, runtime=runtime)
        spec = read_spec(folder)
        model = {**spec.model.model_dump(), "family": "huginn", "n_layers": 3, "huginn": SECTION}
        spec = spec.model_validate({**spec.model_dump(), "model": model})
        (folder / "run.json").write_text(spec.model_dump_json())
        return folder

    return make


def steps(folder):
    return [row for row in read_rows(folder / "metrics.jsonl") if row["kind"] == "step"]


def test_the_micro_batch_size_changes_neither_draws_nor_losses(run):
    whole, sliced = run("whole", micro_batch_rows=8), run("sliced", micro_batch_rows=3)
    for folder in (whole, sliced):
        train(folder, Stop())
    drawn = [draw_recurrence(HuginnRecipe(**SECTION), int(hash64(0, step)[0]) >> 1) for step in range(STEPS)]
    for folder in (whole, sliced):
        aux = [row["aux"] for row in steps(folder)]
        assert [(a["recurrence"], a["recurrence_with_grad"]) for a in aux] == [(d.steps, d.with_grad) for d in drawn]
    assert len({one.steps for one in drawn}) > 2
    losses = [[row["loss"] for row in steps(folder)] for folder in (whole, sliced)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    assert losses[0][-1] < losses[0][0]


def test_an_interrupted_run_ends_with_the_same_bits(run):
    whole, broken = run("whole"), run("broken")
    train(whole, Stop())
    with pytest.raises(Preempted):
        train(broken, Stop(4))
    train(broken, Stop())
    assert [row["loss"] for row in steps(whole)] == [row["loss"] for row in steps(broken)]
    one, other = (load_portable(folder).state_dict() for folder in (whole, broken))
    assert all(torch.equal(one[name], other[name]) for name in one)

"""The optimizers as a trainer uses them: chosen by a recipe, resumed to the same bits, of known size, learning."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from small_training import EXPERTS, advance, optimization, small_model, training

from athanor.tasks.trainer.optimizers.kind import OPTIMIZERS
from athanor.tasks.trainer.records.checkpoint import CheckpointFolder, Position
from athanor.tasks.trainer.records.retention import Retention
from athanor.tasks.trainer.step.step import Optimization


def training_that_uses_a_matrix_every_other_step(optimizer: str, seed: int) -> Optimization:
    """A model of experts with one more parameter, which is in the objective of even steps alone."""
    model = small_model(**EXPERTS)
    model.init_weights(seed)
    model.sometimes = torch.nn.Parameter(torch.full((6, 7), 0.5 + seed))
    loss_of, begin, used = model.loss, model.begin_step, [False]

    def begin_step(step):
        begin(step)
        used[0] = step % 2 == 0

    def loss(**rows):
        found = loss_of(**rows)
        return found._replace(aux={**found.aux, "often": model.sometimes.square().sum()}) if used[0] else found

    model.begin_step, model.loss = begin_step, loss
    return optimization(model, optimizer)


@pytest.mark.parametrize("optimizer", list(OPTIMIZERS))
def test_a_saved_and_resumed_run_has_the_bits_of_one_that_was_not(optimizer, tmp_path):
    straight, first, resumed = (training_that_uses_a_matrix_every_other_step(optimizer, seed) for seed in (0, 0, 1))
    advance(straight, optimizer, range(6))
    advance(first, optimizer, range(3))
    folder = CheckpointFolder(tmp_path, "key", "data", Retention(newest=1, anchor_steps=100))
    folder.save(first.engine.tensors(), Position(3, 3))
    tensors = resumed.engine.tensors()
    folder.load(folder.newest(pytest.fail), tensors)
    advance(resumed, optimizer, range(3, 6))
    expected = straight.engine.tensors()
    ours = resumed.engine.tensors()
    assert expected.keys() == ours.keys() == tensors.keys()
    state_of = {name.split(".", 1)[1].rsplit(".", 1)[0] for name in expected if name.startswith("optimizer.")}
    assert state_of == {name for name, _ in straight.engine.model.named_parameters()}
    differing = [name for name in expected if not torch.equal(expected[name], ours[name])]
    assert differing == []


@pytest.mark.parametrize("optimizer", list(OPTIMIZERS))
def test_it_learns_real_text(optimizer):
    losses = advance(training(optimizer, family="vanilla"), optimizer, range(60))
    assert np.mean(losses[-5:]) < losses[0] - 1.5

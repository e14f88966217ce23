"""Planned bytes of optimizer state are those held."""

from __future__ import annotations

import pytest
import torch
from small_training import CPU, EXPERTS, small_model, train_recipe

from athanor.tasks.trainer.optimizers.build import build_optimizer
from athanor.tasks.trainer.optimizers.kind import OPTIMIZERS
from athanor.tasks.trainer.optimizers.memory import optimizer_bytes_per_parameter


@pytest.mark.parametrize("changes", [{"vocab_size": 4096, "d_model": 128}, {**EXPERTS, "d_model": 96, "d_ff": 256}])
@pytest.mark.parametrize("optimizer", list(OPTIMIZERS))
def test_bytes_per_parameter_computed_from_shapes_are_those_held(optimizer, changes):
    model = small_model(**changes)
    model.init_weights(0)
    subject = build_optimizer(model, train_recipe(optimizer), CPU)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    subject.step()
    storages = {t.untyped_storage().data_ptr(): t.nbytes for state in subject.state.values() for t in state.values()}
    parameters = sum(parameter.numel() for parameter in model.parameters())
    computed = optimizer_bytes_per_parameter(train_recipe(optimizer), small_model("meta", **changes))
    assert computed == pytest.approx(sum(storages.values()) / parameters, rel=0.02)

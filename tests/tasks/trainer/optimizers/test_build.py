"""The optimizer a recipe names is the one that is built, over the groups of the model."""

from __future__ import annotations

import pytest
import torch
from small_training import CPU, EXPERTS, advance, small_model, train_recipe, training

from athanor.core.errors import UserError
from athanor.tasks.trainer.optimizers.adamw_bf16 import AdamWBf16Moments
from athanor.tasks.trainer.optimizers.build import build_optimizer
from athanor.tasks.trainer.optimizers.eight_bit.flat_state import AdamW8bitFlat, Lion8bitFlat
from athanor.tasks.trainer.optimizers.ellis_adam import EllisAdam
from athanor.tasks.trainer.optimizers.kind import OPTIMIZERS
from athanor.tasks.trainer.optimizers.lion import Lion
from athanor.tasks.trainer.optimizers.muon import MuonWithAdamW
from athanor.tasks.trainer.optimizers.sophia import SophiaG

CLASSES = {
    "adafactor": torch.optim.Adafactor,
    "adamw": torch.optim.AdamW,
    "adamw-8bit": AdamW8bitFlat,
    "adamw-bf16-moments": AdamWBf16Moments,
    "cautious-lion": Lion,
    "ellis-adam": EllisAdam,
    "lion": Lion,
    "lion-8bit": Lion8bitFlat,
    "lion-bf16-moments": Lion,
    "muon": MuonWithAdamW,
    "sophia-g": SophiaG,
}


@pytest.mark.parametrize("optimizer", list(OPTIMIZERS))
def test_every_declared_optimizer_is_built_by_its_own_class(optimizer):
    assert type(training(optimizer).engine.optimizer) is CLASSES[optimizer]


def test_no_two_declared_optimizers_do_the_same():
    done = {}
    for optimizer in OPTIMIZERS:
        subject = training(optimizer, family="vanilla", vocab_size=256)
        advance(subject, "adamw", range(3))
        tensors = subject.engine.tensors()
        state = tuple(sorted((name.rsplit(".", 1)[-1], str(t.dtype)) for name, t in tensors.items()))
        weights = tensors["model.embedding.weight"].numpy().tobytes()
        done[optimizer] = (state, weights)
    assert len(set(done.values())) == len(done)


@pytest.mark.parametrize("optimizer", list(OPTIMIZERS))
def test_groups_keep_the_decay_and_rate_of_their_family_and_every_parameter_once(optimizer):
    section = {**EXPERTS["hydra"], "lr_scale": {"router": 0.5}, "decay_scale": {"expert": 3.0}}
    model = small_model(**{**EXPERTS, "hydra": section})
    recipe = train_recipe(optimizer)
    asked = {
        p: (group["weight_decay"], group["lr_scale"])
        for group in model.parameter_groups(recipe.weight_decay)
        for p in group["params"]
    }
    groups = build_optimizer(model, recipe, CPU).param_groups
    given = [(p, (group["weight_decay"], group["lr_scale"])) for group in groups for p in group["params"]]
    assert len(given) == len(asked)
    assert dict(given) == asked


@pytest.mark.parametrize("optimizer", ["adamw", "lion-8bit"])
def test_what_no_library_kernel_takes_is_refused_in_one_line(optimizer):
    model = small_model()
    with pytest.raises(UserError, match=rf"train\.optimizer={optimizer} .*meta"):
        build_optimizer(model, train_recipe(optimizer), torch.device("meta"))
    with pytest.raises(UserError, match=r"fp32 parameters, but embedding\.weight is torch\.bfloat16"):
        build_optimizer(model.bfloat16(), train_recipe(optimizer), CPU)

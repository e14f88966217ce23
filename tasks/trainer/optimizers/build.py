"""From a recipe to its optimizer."""

from __future__ import annotations

from typing import Any

import torch

from athanor.core.errors import UserError
from athanor.models.skeleton import LanguageModel
from athanor.tasks.trainer.optimizers.kind import OPTIMIZERS
from athanor.tasks.trainer.train_recipe import TrainRecipe

SUPPORTED = ("cpu", "cuda")


def build_optimizer(model: LanguageModel, recipe: TrainRecipe, device: torch.device) -> torch.optim.Optimizer:
    """The recipe's optimizer over the model's fp32 parameters on `device`, at the peak learning rate, without state.

    Raises UserError where the parameters are not fp32 or the library has no kernel for the device.
    """
    kind = OPTIMIZERS[recipe.optimizer]
    _refuse_impossible(model, kind.name, device)
    arguments: dict[str, Any] = {field: getattr(recipe, field) for field in kind.defaults}
    groups = model.parameter_groups(arguments.pop("weight_decay"))
    if "beta2" in arguments:
        arguments["betas"] = arguments.pop("beta1"), arguments.pop("beta2")
    return kind.build(groups, model, lr=recipe.peak_lr, **arguments)


def _refuse_impossible(model: LanguageModel, name: str, device: torch.device) -> None:
    if device.type not in SUPPORTED:
        raise UserError(f"train.optimizer={name} runs on {' and '.join(SUPPORTED)}; runtime.device is {device.type}")
    other = next((f"{name} is {p.dtype}" for name, p in model.named_parameters() if p.dtype != torch.float32), None)
    if other is not None:
        raise UserError(f"train.optimizer={name} updates fp32 parameters, but {other}; load the model in fp32")

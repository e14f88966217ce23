"""From a recipe to an optimizer: the one place that knows which class a name is."""

from __future__ import annotations

from types import ModuleType

import torch

from athanor.core.errors import UserError
from athanor.models.skeleton import LanguageModel
from athanor.tasks.trainer.optimizers.adamw_bf16 import AdamWBf16Moments
from athanor.tasks.trainer.optimizers.defaults import DEFAULTS
from athanor.tasks.trainer.optimizers.ellis_adam import EllisAdam
from athanor.tasks.trainer.optimizers.lion import Lion
from athanor.tasks.trainer.optimizers.muon import MuonWithAdamW
from athanor.tasks.trainer.optimizers.sophia import SophiaG
from athanor.tasks.trainer.train_recipe import TrainRecipe


def build_optimizer(model: LanguageModel, recipe: TrainRecipe, device: torch.device) -> torch.optim.Optimizer:
    """The recipe's optimizer over the model's fp32 parameters on `device`, at the peak learning rate, without state.

    Raises UserError where the parameters are not fp32 or the library has no kernel for the device.
    """
    name, lr = recipe.optimizer, recipe.peak_lr
    _refuse_impossible(model, name, device)
    read = {field: getattr(recipe, field) for field in DEFAULTS[name]}
    groups = model.parameter_groups(read["weight_decay"])
    if name == "adafactor":
        return torch.optim.Adafactor(groups, lr=lr)
    betas = (read["beta1"], read["beta2"])
    if name in ("lion", "cautious-lion"):
        return Lion(groups, lr=lr, betas=betas, cautious=name == "cautious-lion")
    if name == "lion-bf16-moments":
        return Lion(groups, lr=lr, betas=betas, moment_dtype=torch.bfloat16)
    if name == "lion-8bit":
        return _eight_bit().Lion8bitFlat(groups, lr=lr, betas=betas)
    eps = read["eps"]
    if name == "adamw":
        return torch.optim.AdamW(groups, lr=lr, betas=betas, eps=eps, fused=True)
    if name == "adamw-bf16-moments":
        return AdamWBf16Moments(groups, lr=lr, betas=betas, eps=eps)
    if name == "adamw-8bit":
        return _eight_bit().AdamW8bitFlat(groups, lr=lr, betas=betas, eps=eps)
    if name == "muon":
        return MuonWithAdamW(groups, model, lr=lr, betas=betas, eps=eps)
    if name == "sophia-g":
        return SophiaG(groups, lr=lr, betas=betas, eps=eps, gamma=read["sophia_gamma"])
    return EllisAdam(groups, lr=lr, betas=betas, eps=eps)


def _eight_bit() -> ModuleType:
    from athanor.tasks.trainer.optimizers import eight_bit

    return eight_bit


def _refuse_impossible(model: LanguageModel, name: str, device: torch.device) -> None:
    supported = ("cpu", "cuda")
    if device.type not in supported:
        raise UserError(f"train.optimizer={name} runs on {' and '.join(supported)}; runtime.device is {device.type}")
    other = next((f"{name} is {p.dtype}" for name, p in model.named_parameters() if p.dtype != torch.float32), None)
    if other is not None:
        raise UserError(f"train.optimizer={name} updates fp32 parameters, but {other}; load the model in fp32")

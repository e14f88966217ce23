"""How much memory an optimizer's state takes, computed from names and shapes."""

from __future__ import annotations

import math

from torch import Tensor

from athanor.models.skeleton import LanguageModel
from athanor.tasks.trainer.optimizers.defaults import OptimizerName
from athanor.tasks.trainer.optimizers.muon import is_orthogonalised
from athanor.tasks.trainer.train_recipe import TrainRecipe

MOMENTS = {
    "adamw-8bit": 2,
    "adamw-bf16-moments": 2,
    "lion-8bit": 1,
    "lion-bf16-moments": 1,
    "lion": 1,
    "cautious-lion": 1,
}
FP32_BYTES, BF16_BYTES = 4, 2
QUANTISED_FROM, QUANTISED_BLOCK, QUANTISED_TABLE = 4096, 256, 256  # elements; bitsandbytes' choice


def optimizer_bytes_per_parameter(recipe: TrainRecipe, model: LanguageModel) -> float:
    """Bytes of optimizer state per parameter of the model, which may be on the meta device. Weights and gradients,
    4 bytes each, come on top."""
    parameters = dict(model.named_parameters())
    state_bytes = sum(_state_bytes(recipe.optimizer, name, parameter) for name, parameter in parameters.items())
    return state_bytes / sum(parameter.numel() for parameter in parameters.values())


def _state_bytes(optimizer: OptimizerName, name: str, parameter: Tensor) -> float:
    count = parameter.numel()
    moments = MOMENTS.get(optimizer, 2)
    if optimizer.endswith("8bit") and count >= QUANTISED_FROM:
        return moments * (count + FP32_BYTES * (math.ceil(count / QUANTISED_BLOCK) + QUANTISED_TABLE))
    if optimizer.endswith("bf16-moments"):
        return moments * count * BF16_BYTES
    if optimizer == "adafactor" and parameter.ndim > 1:
        return (count // parameter.shape[-1] + count // parameter.shape[-2]) * FP32_BYTES
    if optimizer == "adafactor" or (optimizer == "muon" and is_orthogonalised(name, parameter)):
        return count * FP32_BYTES
    return moments * count * FP32_BYTES

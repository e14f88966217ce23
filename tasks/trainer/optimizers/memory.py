"""How much memory an optimizer's state takes, computed from names and shapes."""

from __future__ import annotations

from athanor.models.skeleton import LanguageModel
from athanor.tasks.trainer.optimizers.kind import OPTIMIZERS
from athanor.tasks.trainer.train_recipe import TrainRecipe


def optimizer_bytes_per_parameter(recipe: TrainRecipe, model: LanguageModel) -> float:
    """Bytes of optimizer state per parameter of the model, which may be on the meta device. Weights and gradients,
    4 bytes each, come on top."""
    parameters = dict(model.named_parameters())
    state_bytes = sum(map(OPTIMIZERS[recipe.optimizer].state_bytes, parameters, parameters.values()))
    return state_bytes / sum(parameter.numel() for parameter in parameters.values())

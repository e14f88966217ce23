"""From a recipe to a model."""

from __future__ import annotations

import torch

from athanor.models.family import FAMILIES
from athanor.models.model_recipe import ModelRecipe
from athanor.models.skeleton import LanguageModel


def build_model(recipe: ModelRecipe) -> LanguageModel:
    """The model of a recipe whose vocab_size is filled in, weights not yet meaningful: call `init_weights(seed)`
    or load a state dict. UserError without a vocab_size."""
    return FAMILIES[recipe.family].model()(recipe)


def build_on_meta(recipe: ModelRecipe) -> LanguageModel:
    """The same on the meta device: names and shapes, but no memory."""
    with torch.device("meta"):
        return build_model(recipe)

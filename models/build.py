"""From a recipe to a model."""

from __future__ import annotations

from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from athanor.models.family import FAMILIES
from athanor.models.model_recipe import ModelRecipe
from athanor.models.skeleton import LanguageModel


def build_model(recipe: ModelRecipe) -> LanguageModel:
    """The model of a recipe whose vocab_size is filled in, weights not yet meaningful: call `init_weights(seed)`
    or load a state dict. UserError without a vocab_size."""
    return FAMILIES[recipe.family].model()(recipe)


def build_on_meta(recipe: ModelRecipe) -> LanguageModel:
    """The same on the meta device: names and shapes, but no memory."""
    with torch.device("meta"), _NothingDrawn():
        return build_model(recipe)


class _NothingDrawn(TorchFunctionMode):
    """Passes over `torch.nn.init`: there is nothing to fill, and drawing normal numbers on the meta device would import
    torch's compiler, which takes longer than all the rest."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__module__", None) == "torch.nn.init":
            return kwargs["tensor"] if "tensor" in kwargs else args[0]
        return func(*args, **kwargs)

"""From a recipe to a model: the one place that knows which class a family is."""

from __future__ import annotations

from models.config import ModelRecipe
from models.families.huginn import Huginn
from models.families.hydra import Hydra
from models.families.polychromatic import Polychromatic
from models.families.swa_mla import SwaMla
from models.families.vanilla import Vanilla
from models.skeleton import LanguageModel

FAMILIES: dict[str, type[LanguageModel]] = {
    "vanilla": Vanilla,
    "polychromatic": Polychromatic,
    "swa_mla": SwaMla,
    "huginn": Huginn,
    "hydra": Hydra,
}


def build_model(recipe: ModelRecipe) -> LanguageModel:
    """The model of a recipe whose vocab_size is filled in, weights not yet meaningful: call `init_weights(seed)`
    or load a state dict. Under `torch.device("meta")` it costs no memory. UserError without a vocab_size."""
    return FAMILIES[recipe.family](recipe)

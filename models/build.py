"""From a recipe to a model: the one place that knows which class a family is."""

from __future__ import annotations

from athanor.models.families.huginn.model import Huginn
from athanor.models.families.hydra.model import Hydra
from athanor.models.families.polychromatic.model import Polychromatic
from athanor.models.families.swa_mla.model import SwaMla
from athanor.models.families.vanilla.model import Vanilla
from athanor.models.model_recipe import ModelRecipe
from athanor.models.skeleton import LanguageModel

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

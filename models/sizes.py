"""Named sizes: the published shapes of every family, in its folder; `athanor models` prints their true counts."""

from __future__ import annotations

from athanor.models.family import FAMILIES
from athanor.models.model_recipe import ModelRecipe

SIZES: dict[str, ModelRecipe] = {
    name: recipe for family in FAMILIES.records() for name, recipe in family.sizes().items()
}

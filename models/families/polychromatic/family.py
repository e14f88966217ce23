"""The record of the family `polychromatic`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from athanor.models.families.polychromatic.recipe import PolychromaticRecipe
from athanor.models.family import Family

if TYPE_CHECKING:
    from athanor.models.checkpoints.layout import Layout
    from athanor.models.model_recipe import ModelRecipe
    from athanor.models.skeleton import LanguageModel


def _model() -> type[LanguageModel]:
    from athanor.models.families.polychromatic.model import Polychromatic

    return Polychromatic


def _sizes() -> dict[str, ModelRecipe]:
    from athanor.models.families.polychromatic.sizes import SIZES

    return SIZES


def _layouts() -> dict[str, Layout]:
    from athanor.models.families.polychromatic.layout import LAYOUT

    return {"polychromatic": LAYOUT}


FAMILY = Family("polychromatic", PolychromaticRecipe, _model, _sizes, _layouts)

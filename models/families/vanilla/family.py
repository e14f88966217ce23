"""The record of the family `vanilla`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from athanor.models.families.vanilla.recipe import VanillaRecipe
from athanor.models.family import Family

if TYPE_CHECKING:
    from athanor.models.checkpoints.layout import Layout
    from athanor.models.model_recipe import ModelRecipe
    from athanor.models.skeleton import LanguageModel


def _model() -> type[LanguageModel]:
    from athanor.models.families.vanilla.model import Vanilla

    return Vanilla


def _sizes() -> dict[str, ModelRecipe]:
    from athanor.models.families.vanilla.sizes import SIZES

    return SIZES


def _layouts() -> dict[str, Layout]:
    from athanor.models.families.vanilla.layouts import LAYOUTS

    return LAYOUTS


FAMILY = Family("vanilla", VanillaRecipe, _model, _sizes, _layouts)

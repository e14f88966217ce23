"""The record of the family `hydra`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from athanor.models.families.hydra.recipe import HydraRecipe
from athanor.models.family import Family

if TYPE_CHECKING:
    from athanor.models.model_recipe import ModelRecipe
    from athanor.models.skeleton import LanguageModel


def _model() -> type[LanguageModel]:
    from athanor.models.families.hydra.model import Hydra

    return Hydra


def _sizes() -> dict[str, ModelRecipe]:
    from athanor.models.families.hydra.sizes import SIZES

    return SIZES


FAMILY = Family("hydra", HydraRecipe, _model, _sizes)

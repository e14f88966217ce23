"""The record of the family `swa_mla`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from athanor.models.families.swa_mla.recipe import SwaMlaRecipe
from athanor.models.family import Family

if TYPE_CHECKING:
    from athanor.models.model_recipe import ModelRecipe
    from athanor.models.skeleton import LanguageModel


def _model() -> type[LanguageModel]:
    from athanor.models.families.swa_mla.model import SwaMla

    return SwaMla


def _sizes() -> dict[str, ModelRecipe]:
    from athanor.models.families.swa_mla.sizes import SIZES

    return SIZES


FAMILY = Family("swa_mla", SwaMlaRecipe, _model, _sizes)

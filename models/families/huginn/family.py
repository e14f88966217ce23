"""The record of the family `huginn`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from athanor.models.families.huginn.recipe import HuginnRecipe
from athanor.models.family import Family

if TYPE_CHECKING:
    from athanor.models.checkpoints.layout import Layout
    from athanor.models.model_recipe import ModelRecipe
    from athanor.models.skeleton import LanguageModel


def _model() -> type[LanguageModel]:
    from athanor.models.families.huginn.model import Huginn

    return Huginn


def _sizes() -> dict[str, ModelRecipe]:
    from athanor.models.families.huginn.sizes import SIZES

    return SIZES


def _layouts() -> dict[str, Layout]:
    from athanor.models.families.huginn.layout import LAYOUT

    return {"huginn": LAYOUT}


FAMILY = Family("huginn", HuginnRecipe, _model, _sizes, _layouts, laptop={"mean_recurrence": 8, "backprop_depth": 4})

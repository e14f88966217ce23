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


MEANINGS = {
    "recurrence": "How often the recurrent core ran in the step, a number that is drawn.",
    "recurrence_with_grad": "How many of these iterations, the last ones, gradients flowed through.",
    "state_change": "How far the last iteration moved the states, relative to their size: near 0 they have settled.",
    "neighbour_cosine": "Likeness of the states of neighbouring tokens: near 1 all tokens have collapsed into one.",
}

FAMILY = Family(
    "huginn",
    HuginnRecipe,
    _model,
    _sizes,
    _layouts,
    laptop={"mean_recurrence": 8, "backprop_depth": 4},
    meanings=MEANINGS,
)

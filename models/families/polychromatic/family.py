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


MEANINGS = {
    "tau": "Temperature of the choice of activations: the lower, the more a neuron keeps to one of the four.",
    "alpha_rms": "Size of the neurons' fixed preferences for activations: 0 at the start, when none has any.",
    "static_entropy": "How undecided the neurons' fixed preferences are, in nats: 1.386 (ln 4) is no preference.",
    "dynamic_entropy": "How undecided the choice is that the context makes, in nats: 1.386 where context says nothing.",
    "actual_entropy": "How undecided preference and context are together, in nats: what the neurons really mix.",
    "activation_share_min": "The smallest share an activation has in any layer: 0 for long means it is no longer used.",
}

FAMILY = Family("polychromatic", PolychromaticRecipe, _model, _sizes, _layouts, meanings=MEANINGS)

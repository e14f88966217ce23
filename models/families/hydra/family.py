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


MEANINGS = {
    "progress": "How much of the training is done, which the curriculum goes by.",
    "mod_floor": "How far the curriculum opens mixture of depths whatever the loss: 0 not at all, 1 fully.",
    "mod_skip": "How far training skips the tokens that serving will skip: 0 weighs them all, 1 leaves them out.",
    "mor_adaptive": "How far tokens choose their own number of recursions: at 0 all take the most.",
    "moe_dense": "1 while every expert is computed for every token, 0 once only the chosen ones are.",
    "mod": "Loss that teaches the skipping routers to let the asked share of tokens through, its weight included.",
    "ponder": "Price of the recursions that tokens take, its weight included: falls as tokens stop earlier.",
    "moe": "Loss that evens out the choice of experts, its weight included: least where all are chosen alike.",
    "domain": "Loss that teaches the expert routers their sources' experts, its weight included.",
    "mor_choice": "Loss that teaches which tokens go on to the next recursion, its weight included.",
    "mor_balance": "Loss that evens out the depths that tokens pick, its weight included.",
    "mor_z": "Loss that keeps the logits of the depth router small, its weight included.",
    "mod_open": "How far mixture of depths counts: 0 computes every token in full, 1 lets the router decide.",
    "mod_passing": "Share of the tokens above the router's threshold: those that serving will compute.",
    "mod_above_half": "Share of tokens with a gate above one half, unlike mod_passing, which the threshold decides.",
    "mod_variance": "Variance of the gates over tokens: near 0 the router treats all of them alike.",
    "mor_depth": "Recursions that a token takes, on average.",
    "expert_divergence": "How unlike the experts' answers to the same tokens are: 0 the same function, 1 unrelated.",
    "expert_load_max": "Share of the choices that fall on the busiest expert.",
    "expert_load_min": "Share of the choices that fall on the idlest expert: at 0 one of them is dead.",
}

FAMILY = Family("hydra", HydraRecipe, _model, _sizes, meanings=MEANINGS)

"""The controlled baseline of any model: the vanilla one that a sensible person would train at the same cost.

If the same skeleton does, with heads, d_ff and depth in ordinary proportions, it is taken: everything the two share
stays as it is, and d_ff is solved for. A model that compresses its heads, spreads its parameters over experts or uses
its layers again has no such twin; then width and depth are both scaled, at the original's ratio of the two where that
is an ordinary one, with heads of 64 (of narrow models a fourth of the width), and d_ff near three widths.

A vanilla model's parameters and its FLOPs are affine in d_ff and in depth, so small ones tell those of large. Of the
d_ff that match within TOLERANCE the nearest multiple of 64 is taken if there is one, then of 8: those are fast on GPUs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Literal

from athanor.core.errors import UserError
from athanor.models.counts import flops_per_token, parameter_counts
from athanor.models.family import FAMILIES
from athanor.models.model_recipe import ModelRecipe

Match = Literal["parameters", "training-flops"]
Cost = Callable[[ModelRecipe], float]
TOLERANCE = 0.01
LEAST, USUAL, MOST = 2.5, 3, 4.0  # d_ff in widths
SHAPES = (16.0, 256.0)  # width by layer
NARROW, STEP = 256, 8  # widths below which heads are narrower than 64; of which widths are multiples


def vanilla_twin(recipe: ModelRecipe, match: Match = "parameters", seq_len_tokens: int | None = None) -> ModelRecipe:
    """The vanilla recipe that equals `recipe` within 1 % in total parameters, or in training FLOPs per token.

    FLOPs are forward plus backward of rows of `seq_len_tokens` (none: max_seq_len). vocab_size must be filled in.
    UserError where no vanilla model does.
    """

    def cost(candidate: ModelRecipe) -> float:
        if match == "parameters":
            return parameter_counts(candidate)["total"]
        flops = flops_per_token(candidate, seq_len_tokens or recipe.max_seq_len)
        return flops.forward + flops.backward

    wanted = cost(recipe)
    skeleton = _vanilla(recipe)
    same = _with_d_ff(skeleton, _Costs(skeleton, cost), cost, wanted)
    if same is not None and is_sensible(same):
        return same
    if (twin := next(_scaled(recipe, cost, wanted), same)) is not None:
        return twin
    raise UserError(
        f"no vanilla model matches this {recipe.family} model's {wanted:,.0f} {match} within {TOLERANCE:.0%}; change "
        "d_model, n_layers or the heads"
    )


def is_sensible(twin: ModelRecipe) -> bool:
    """Whether its heads, its d_ff and its depth are in the proportions that are trained."""
    narrow = twin.d_model < NARROW and twin.head_dim * twin.n_heads >= twin.d_model
    shallow, deep = SHAPES
    return (
        (narrow or 64 <= twin.head_dim <= 256)
        and LEAST <= twin.d_ff / twin.d_model <= MOST
        and shallow <= twin.d_model / twin.n_layers <= deep
    )


def _vanilla(recipe: ModelRecipe, **changes: int) -> ModelRecipe:
    shared = {name: value for name, value in recipe if name not in FAMILIES}
    return ModelRecipe.model_validate({**shared, "family": "vanilla", **changes})


class _Costs:
    """What a shape costs by depth and d_ff, in both of which it is affine: four small models give it."""

    def __init__(self, shape: ModelRecipe, cost: Cost):
        one, self._by_d_ff, self._by_layer, both = (
            cost(_vanilla(shape, n_layers=n_layers, d_ff=d_ff)) for n_layers in (1, 2) for d_ff in (1, 2)
        )
        self._one, self._both = one, both - self._by_layer - self._by_d_ff + one
        self._by_d_ff -= one
        self._by_layer -= one

    def d_ff(self, n_layers: int, wanted: float) -> float:
        """The d_ff at which so many layers cost what is wanted."""
        rest = wanted - self._one - (n_layers - 1) * self._by_layer
        return 1 + rest / (self._by_d_ff + (n_layers - 1) * self._both)

    def layers(self, d_ff: int, wanted: float) -> float:
        """The depth at which layers of this d_ff cost what is wanted."""
        rest = wanted - self._one - (d_ff - 1) * self._by_d_ff
        return 1 + rest / (self._by_layer + (d_ff - 1) * self._both)


def _with_d_ff(shape: ModelRecipe, costs: _Costs, cost: Cost, wanted: float) -> ModelRecipe | None:
    """The shape with the d_ff that makes it cost what is wanted; None where none does."""
    solved = costs.d_ff(shape.n_layers, wanted)
    for multiple in (64, 8, 1):
        found = _vanilla(shape, d_ff=max(1, round(solved / multiple)) * multiple)
        if abs(cost(found) / wanted - 1) <= TOLERANCE:
            return found
    return None


def _scaled(recipe: ModelRecipe, cost: Cost, wanted: float) -> Iterator[ModelRecipe]:
    """Shapes of other widths and depths that cost about what is wanted, the least strange first."""
    found = []
    for d_model in _widths(recipe, cost, wanted):
        shape = _shape(recipe, d_model)
        costs = _Costs(shape, cost)
        layers = costs.layers(round(USUAL * d_model), wanted)
        for n_layers in {min(max(1, rounded(layers)), 1000) for rounded in (math.floor, math.ceil)}:
            d_ff = max(1, round(costs.d_ff(n_layers, wanted)))
            candidate = _vanilla(shape, n_layers=n_layers, d_ff=d_ff)
            if is_sensible(candidate):
                found.append((_strangeness(candidate, recipe), d_model, candidate, costs))
    for _, _, candidate, costs in sorted(found, key=lambda one: one[:2]):
        if (twin := _with_d_ff(candidate, costs, cost, wanted)) is not None and is_sensible(twin):
            yield twin


def _shape(recipe: ModelRecipe, d_model: int) -> ModelRecipe:
    """A vanilla model of this width, with ordinary heads, as many to a key head as the original has if that goes."""
    head_dim = _head_dim(d_model)
    n_heads = d_model // head_dim
    most = max(1, n_heads // max(1, recipe.n_heads // recipe.n_kv_heads))
    n_kv_heads = max(n for n in range(1, most + 1) if n_heads % n == 0)
    return _vanilla(recipe, d_model=d_model, head_dim=head_dim, n_heads=n_heads, n_kv_heads=n_kv_heads)


def _widths(recipe: ModelRecipe, cost: Cost, wanted: float) -> list[int]:
    """Widths to try, around that at which a model in the original's proportions costs what is wanted."""
    low, high = 1, 32_000 // STEP
    while high - low > 1:  # the depth that pays for a width falls as it grows
        middle = (low + high) // 2
        d_model = middle * STEP
        shape = _vanilla(recipe, d_model=d_model, head_dim=STEP, n_heads=middle, n_kv_heads=middle)
        too_wide = _Costs(shape, cost).layers(round(USUAL * d_model), wanted) < d_model / _ratio(recipe)
        low, high = (low, middle) if too_wide else (middle, high)
    step = 64 if low * STEP >= NARROW else STEP
    around = range(max(step, low * STEP // 2 // step * step), 2 * low * STEP + step + 1, step)
    return [width for width in around[:: max(1, len(around) // 40)] if width % _head_dim(width) == 0]


def _ratio(recipe: ModelRecipe) -> float:
    """The original's width by layer, or the nearest common one (Kaplan et al. 2020: it matters little)."""
    return min(max(recipe.d_model / recipe.n_layers, 32.0), 128.0)


def _head_dim(d_model: int) -> int:
    """64; of narrow models a fourth of the width, at least STEP."""
    return 64 if d_model >= NARROW else max(STEP, d_model // 4 // STEP * STEP)


def _strangeness(twin: ModelRecipe, recipe: ModelRecipe) -> float:
    """How far a twin is from the original's ratios of width and depth, heads and key heads, and from the usual d_ff."""
    ratio = (twin.d_model / twin.n_layers) / _ratio(recipe)
    shared = (twin.n_heads / twin.n_kv_heads) / (recipe.n_heads / recipe.n_kv_heads)
    return sum(abs(math.log(part)) for part in (ratio, twin.d_ff / twin.d_model / USUAL, shared))

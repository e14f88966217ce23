"""The controlled baseline of any model: vanilla with the same skeleton, matched by solving for d_ff.

Everything the two share stays as it is: vocabulary, width, depth, heads, row length. A vanilla model's parameters and
its FLOPs are affine in d_ff, so two of them give the line, and the line gives d_ff. Of the widths that match within
`TOLERANCE`, the nearest multiple of 64 is taken if there is one, then of 8, because those are fast on GPUs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from athanor.core.errors import UserError
from athanor.models.counts import flops_per_token, parameter_counts
from athanor.models.family import FAMILIES
from athanor.models.model_recipe import ModelRecipe

Match = Literal["parameters", "training-flops"]
TOLERANCE = 0.01


def vanilla_twin(recipe: ModelRecipe, match: Match = "parameters", seq_len_tokens: int | None = None) -> ModelRecipe:
    """The vanilla recipe that equals `recipe` within 1 % in total parameters, or in training FLOPs per token.

    FLOPs are forward plus backward of rows of `seq_len_tokens` (none: max_seq_len). vocab_size must be filled in.
    UserError where no d_ff reaches it: the part that both share already costs more, or a unit of d_ff too much.
    """

    def cost(candidate: ModelRecipe) -> float:
        if match == "parameters":
            return parameter_counts(candidate)["total"]
        flops = flops_per_token(candidate, seq_len_tokens or recipe.max_seq_len)
        return flops.forward + flops.backward

    shared = {name: value for name, value in recipe if name not in FAMILIES}

    def vanilla(d_ff: int) -> ModelRecipe:
        return ModelRecipe.model_validate({**shared, "family": "vanilla", "d_ff": d_ff})

    wanted = cost(recipe)
    solved = _solve(lambda d_ff: cost(vanilla(d_ff)), wanted)
    for multiple in (64, 8, 1):
        d_ff = max(1, round(solved / multiple)) * multiple
        if abs(cost(vanilla(d_ff)) / wanted - 1) <= TOLERANCE:
            return vanilla(d_ff)
    raise UserError(
        f"no vanilla d_ff matches this {recipe.family} model's {wanted:,.0f} {match} within {TOLERANCE:.0%}: the "
        f"nearest, d_ff={d_ff}, has {cost(vanilla(d_ff)):,.0f}; change d_model, n_layers or the heads"
    )


def _solve(line: Callable[[int], float], wanted: float) -> float:
    """Where the straight line through `line(1)` and `line(2)` takes the value `wanted`."""
    first, slope = line(1), line(2) - line(1)
    return 1 + (wanted - first) / slope

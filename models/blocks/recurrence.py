"""How often a recurrent core runs, and through how many of its last iterations the gradient goes.

n iterations without gradient, then k with it: truncated backpropagation, whose memory does not grow with depth.
n and k of a training step are drawn from a generator seeded by the step's key alone, so every rank and every
micro-batch of a step does the same work and a resumed run draws what the first would have drawn.

    poisson-lognormal-filling   p ~ Poisson(exp(z)) + 1,  z ~ N(ln r - s^2/2, s),  s = 1/2;
                                k = min(kb, p),  n = p - k
    poisson-fill                n ~ Poisson(r - kb),  k = kb
    poisson-unbounded           n ~ Poisson(r - kb),  k uniform on 1 .. 2 kb

r is the mean recurrence and kb the backpropagation depth. Source: the samplers of recurrent-pretraining; the mean of
the first is r + 1, because of its + 1.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from data.errors import UserError
from models.config import HuginnRecipe

_SIGMA = 0.5


@dataclass(frozen=True)
class Recurrence:
    """`without_grad` iterations, then `with_grad`. UserError when that is none at all."""

    without_grad: int
    with_grad: int = 0

    def __post_init__(self) -> None:
        if min(self.without_grad, self.with_grad) < 0 or self.steps < 1:
            raise UserError(
                f"a recurrence of {self.without_grad} + {self.with_grad} steps is not defined: ask for 1 step or more"
            )

    @property
    def steps(self) -> int:
        """Iterations in all."""
        return self.without_grad + self.with_grad


def fixed_recurrence(steps: int, backprop_depth: int) -> Recurrence:
    """`steps` iterations, the last `backprop_depth` of them (or fewer, if there are fewer) with gradient."""
    with_grad = min(backprop_depth, steps)
    return Recurrence(steps - with_grad, with_grad)


def mean_recurrence(recipe: HuginnRecipe) -> tuple[float, float]:
    """Expected iterations in training: all of them, and those with gradient.

    Of poisson-lognormal-filling the second is taken as backprop_depth; draws below it are rare (7.98 for 8).
    """
    mean, depth = recipe.mean_recurrence, recipe.backprop_depth
    if recipe.sampling == "poisson-lognormal-filling":
        return mean + 1.0, float(depth)
    return (mean, float(depth)) if recipe.sampling == "poisson-fill" else (mean + 0.5, depth + 0.5)


def draw_recurrence(recipe: HuginnRecipe, step_key: int) -> Recurrence:
    """The recurrence of a training step, a function of the recipe and `step_key` (0 .. 2^63 - 1)."""
    generator = torch.Generator().manual_seed(step_key)
    mean, depth = recipe.mean_recurrence, recipe.backprop_depth
    if recipe.sampling == "poisson-lognormal-filling":
        normal = float(torch.empty(1, dtype=torch.float64).normal_(generator=generator))
        steps = _poisson(math.exp(math.log(mean) - _SIGMA**2 / 2 + _SIGMA * normal), generator) + 1
        return fixed_recurrence(steps, depth)
    if recipe.sampling == "poisson-unbounded":
        depth = int(torch.randint(1, 2 * depth + 1, (1,), generator=generator))
    return Recurrence(_poisson(mean - recipe.backprop_depth, generator), depth)


def _poisson(rate: float, generator: torch.Generator) -> int:
    return int(torch.poisson(torch.tensor([rate], dtype=torch.float64), generator=generator))

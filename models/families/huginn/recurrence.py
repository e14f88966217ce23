"""How often a recurrent core runs, and through how many of its last iterations the gradient goes.

n iterations without gradient, then k with it: truncated backpropagation, whose memory does not grow with depth.
n and k of a training step are drawn from a generator seeded by the step's key alone, so every rank and every
micro-batch of a step does the same work and a resumed run draws what the first would have drawn. With several draws a
step, each row belongs to one by its key. With r the mean
recurrence, kb the backpropagation depth, t = r - kb and L(m) = Poisson(exp(z)), z ~ N(ln m - s^2/2, s), s = 1/2:

    poisson-lognormal-filling   p ~ L(r) + 1;  k = min(kb, p),  n = p - k
    poisson-lognormal-fill      n ~ L(t),  k = kb
    poisson-lognormal           n ~ L(t),  k uniform on 1 .. 2 kb
    poisson-fill                n ~ Poisson(t),  k = kb
    poisson-unbounded           n ~ Poisson(t),  k uniform on 1 .. 2 kb
    poisson-bounded             n ~ min(Poisson(t), 2t - 1),  k uniform on 1 .. 2 kb
    simple                      n uniform on 0 .. 2t - 1,  k uniform on 1 .. 2 kb
    bptt                        n uniform on 0 .. 2t - 1,  k uniform on 1 .. min(2t - n, 2 kb)
    non-uniform                 p uniform on 0 .. 2t - 1,  k uniform on 1 .. 2 min(t, kb),  n = max(p - k, 0)

t = 0 makes n = 0, and k uniform on 1 alone where its range would be empty. A curriculum of N steps lets t and kb grow
linearly, rounded up, from 0 and 1 at step 0 to their values at step N. Source: recurrent-pretraining, whose `gupta`
is left out: it draws negative k.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import fmean

import torch

from athanor.core.errors import UserError
from athanor.kernels.noise import hash_bits
from athanor.models.families.huginn.recipe import HuginnRecipe

_SIGMA = 0.5
_DRAWS_STREAM = 0
_MOST_KEY = 2**63 - 1


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
    """Expected iterations in training, after the curriculum: all of them, and those with gradient.

    Of poisson-lognormal-filling the second is taken as backprop_depth; draws below it are rare (7.98 for 8).
    """
    depth = recipe.backprop_depth
    rest, uniform = recipe.mean_recurrence - depth, depth + 0.5
    firsts = range(max(1, 2 * rest))
    match recipe.sampling:
        case "poisson-lognormal-filling":
            return recipe.mean_recurrence + 1.0, float(depth)
        case "poisson-lognormal-fill" | "poisson-fill":
            return float(recipe.mean_recurrence), float(depth)
        case "poisson-lognormal" | "poisson-unbounded":
            return rest + uniform, uniform
        case "poisson-bounded":
            return _bounded_poisson_mean(rest) + uniform, uniform
        case "simple":
            return fmean(firsts) + uniform, uniform
        case "bptt":
            with_grad = fmean((_bptt_most(rest, depth, n) + 1) / 2 for n in firsts)
            return fmean(firsts) + with_grad, with_grad
        case "non-uniform":
            depths = range(1, _non_uniform_most(rest, depth) + 1)
            without_grad = fmean(max(p - k, 0) for p in firsts for k in depths)
            return without_grad + fmean(depths), fmean(depths)


def draw_recurrence(recipe: HuginnRecipe, step_key: int, step: int | None = None) -> Recurrence:
    """The recurrence of a training step, a function of the recipe, `step_key` (0 .. 2^63 - 1) and, within the
    curriculum, the number `step` of steps before it; none: after the curriculum."""
    draws = _Draws(step_key)
    rest, depth = _grown(recipe, step)
    sampling = recipe.sampling
    if sampling == "poisson-lognormal-filling":
        return fixed_recurrence(draws.lognormal_poisson(rest + depth) + 1, depth)
    if sampling == "bptt":
        without_grad = draws.uniform(0, max(0, 2 * rest - 1))
        return Recurrence(without_grad, draws.uniform(1, _bptt_most(rest, depth, without_grad)))
    if sampling == "non-uniform":
        with_grad = draws.uniform(1, _non_uniform_most(rest, depth))
        return Recurrence(max(draws.uniform(0, max(0, 2 * rest - 1)) - with_grad, 0), with_grad)
    with_grad = depth if sampling.endswith("-fill") else draws.uniform(1, 2 * depth)
    if sampling == "simple":
        return Recurrence(draws.uniform(0, max(0, 2 * rest - 1)), with_grad)
    without_grad = draws.lognormal_poisson(rest) if sampling.startswith("poisson-lognormal") else draws.poisson(rest)
    if sampling == "poisson-bounded":
        without_grad = min(without_grad, max(0, 2 * rest - 1))
    return Recurrence(without_grad, with_grad)


def draw_recurrences(recipe: HuginnRecipe, step_key: int, step: int | None = None) -> tuple[Recurrence, ...]:
    """The `draws_per_step` recurrences of a training step; the first is that of a step with one."""
    draws = recipe.draws_per_step or 1
    others = hash_bits(torch.tensor([step_key]), _DRAWS_STREAM, draws - 1)[0] & _MOST_KEY
    return tuple(draw_recurrence(recipe, key, step) for key in (step_key, *others.tolist()))


def _grown(recipe: HuginnRecipe, step: int | None) -> tuple[int, int]:
    """t and kb at a step of the curriculum."""
    depth = recipe.backprop_depth
    rest = recipe.mean_recurrence - depth
    if step is None or step >= recipe.curriculum_steps:
        return rest, depth
    return -(-rest * step // recipe.curriculum_steps), max(1, -(-depth * step // recipe.curriculum_steps))


def _bptt_most(rest: int, depth: int, without_grad: int) -> int:
    return max(1, min(2 * rest - without_grad, 2 * depth))


def _non_uniform_most(rest: int, depth: int) -> int:
    return max(1, 2 * min(rest, depth))


def _bounded_poisson_mean(rate: int) -> float:
    """Mean of min(Poisson(rate), 2 rate - 1)."""
    most = max(0, 2 * rate - 1)
    share = [math.exp(n * math.log(rate) - rate - math.lgamma(n + 1)) for n in range(most)]
    return most - sum((most - n) * p for n, p in enumerate(share))


class _Draws:
    """Numbers from a generator of their own."""

    def __init__(self, seed: int):
        self._generator = torch.Generator().manual_seed(seed)

    def uniform(self, least: int, most: int) -> int:
        return int(torch.randint(least, most + 1, (1,), generator=self._generator))

    def poisson(self, rate: float) -> int:
        return int(torch.poisson(torch.tensor([rate], dtype=torch.float64), generator=self._generator))

    def lognormal_poisson(self, mean: float) -> int:
        normal = float(torch.empty(1, dtype=torch.float64).normal_(generator=self._generator))
        return self.poisson(mean * math.exp(_SIGMA * normal - _SIGMA**2 / 2))

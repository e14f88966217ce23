"""Noise in the state of a model in use, mixed in before every iteration and normed as the core norms its states.

    s = norm((1 - a) s + a z),   z ~ N(0, 1)

With n = `test_time_noise` times the standard deviation of a first state, t = 1, 2, .. the iteration and r the mean
recurrence, the share a of the noise is

    fixed   n                     geom   n / t              sqrt   n / sqrt(t)
    line    max(n, 1 - (t - 1) / r)                         chi    2 u n, u uniform in (0, 1), one for an iteration

z is a function of the iteration, the position within the document and the channel, u of the iteration alone: a token is
disturbed alike alone, batched, packed, padded or cached. Source: recurrent-pretraining.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from athanor.kernels.noise import keys_at, truncated_normal, uniform
from athanor.models.families.huginn.recipe import NoiseType

_FIRST_STREAM = 1 << 10  # of the noise; the first state has another


def disturbed(s_BTD: Tensor, position_BT: Tensor, step: int, share: float) -> Tensor:
    """(1 - share) s + share z before the iteration `step`, counted from 0; s's dtype."""
    key_BT = keys_at(position_BT.new_zeros(1, 1), position_BT)
    noise_ND = truncated_normal(key_BT.flatten(), _FIRST_STREAM + step, s_BTD.shape[-1], cut=math.inf)
    noise_BTD = noise_ND.view(*key_BT.shape, -1).to(s_BTD.dtype)
    return (1.0 - share) * s_BTD + share * noise_BTD


def noise_share(kind: NoiseType, largest: float, step: int, mean_recurrence: int) -> float:
    """a of the iteration `step`, counted from 0, where n is `largest`."""
    match kind:
        case "fixed":
            return largest
        case "geom":
            return largest / (step + 1)
        case "sqrt":
            return largest / math.sqrt(step + 1)
        case "line":
            return max(largest, 1.0 - step / mean_recurrence)
        case "chi":
            return (
                2.0 * largest * float(uniform(torch.zeros(1, dtype=torch.int64, device="cpu"), _FIRST_STREAM + step, 1))
            )

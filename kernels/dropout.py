"""Dropout without a generator: what is kept is a function of a key for each position, a stream and the channel alone.

    y = x / (1 - p) where uniform(key, stream, channel) >= p, else 0

So a row loses the same in any micro-batch, on any rank, when a block is computed again and after a resume (Srivastava
et al. 2014 draw anew). Backward keeps one bool a value.
"""

from __future__ import annotations

import torch
from torch import Tensor

from athanor.kernels.noise import uniform


def dropout(x_BTD: Tensor, key_BT: Tensor, stream: int, share: float) -> Tensor:
    """x with the `share` in [0, 1) of its values at 0 and the others scaled up; int64 keys; x's dtype."""
    kept_BTD = (uniform(key_BT.flatten(), stream, x_BTD.shape[-1]) >= share).view(x_BTD.shape)
    return torch.where(kept_BTD, x_BTD / (1.0 - share), 0.0)

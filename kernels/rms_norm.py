"""Root-mean-square normalisation: y = x * gain / sqrt(mean(x^2) + eps), statistics in fp32.

Bytes moved per element: forward reads x and writes y; backward reads x and dy and writes dx.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def rms_norm(x: Tensor, gain: Tensor | None, eps: float) -> Tensor:
    """Normalise the last axis of `x [..., D]` and scale by `gain [D]`, if any; returns x's shape and dtype."""
    return F.rms_norm(x.float(), x.shape[-1:], None if gain is None else gain.float(), eps).to(x.dtype)

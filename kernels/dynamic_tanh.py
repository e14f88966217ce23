"""Dynamic tanh (Zhu et al. 2025), a norm without statistics: y = gain * tanh(alpha x) + bias.

Bytes moved per element: forward reads x and writes y; backward reads x and dy and writes dx.
"""

from __future__ import annotations

import torch
from torch import Tensor


def dynamic_tanh(x: Tensor, alpha: Tensor, gain: Tensor, bias: Tensor) -> Tensor:
    """`x [..., D]`, `alpha [1]`, `gain` and `bias [D]`; computed in fp32, returns x's shape and dtype."""
    return torch.addcmul(bias.float(), gain.float(), torch.tanh(alpha.float() * x.float())).to(x.dtype)

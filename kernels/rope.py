"""Rotary position embedding (Su et al. 2021), half-split pairing: channel i turns with channel i + d/2.

Frequencies are base^(-2i/d), i = 0 .. d/2-1. Scores depend on position differences alone, so positions
are those of the row and need no reset at documents. The other pairing found in the literature,
(2i, 2i+1), is a permutation of the head's channels and not interchangeable for trained weights.
"""

from __future__ import annotations

import torch
from torch import Tensor


def rope_table(offset: int, length: int, head_dim: int, base: float, device: torch.device) -> Tensor:
    """Cosines and sines `[2, length, head_dim/2]`, fp32, of row positions offset .. offset+length-1."""
    exponents = torch.arange(0, head_dim, 2, dtype=torch.float32, device=device) / head_dim
    positions = torch.arange(offset, offset + length, dtype=torch.float32, device=device)
    angles = positions[:, None] * (base**-exponents)
    return torch.stack((angles.cos(), angles.sin()))


def rotate_half_split(x_BTHd: Tensor, table: Tensor) -> Tensor:
    """Turn every channel pair (i, i + d/2) of each head by its position's angle; x's shape and dtype."""
    cos, sin = table[:, None, :, None, :].unbind(0)
    low, high = x_BTHd.float().chunk(2, dim=-1)
    return torch.cat((low * cos - high * sin, low * sin + high * cos), dim=-1).to(x_BTHd.dtype)

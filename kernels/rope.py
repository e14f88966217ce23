"""Rotary position embedding (Su et al. 2021), in both pairings found in the literature.

Half-split: channel i turns with channel i + d/2. Interleaved: channel 2i turns with channel 2i + 1. One is a
permutation of the head's channels away from the other, and not interchangeable for trained weights. Frequencies
are base^(-2i/d), i = 0 .. d/2-1. Scores depend on position differences alone; positions within the document keep
the angles small, and the same wherever in a row the document stands.
"""

from __future__ import annotations

import torch
from torch import Tensor


def rope_table(position_BT: Tensor, head_dim: int, base: float, factor: float = 1.0) -> Tensor:
    """Cosines and sines `[2, B, T, head_dim/2]`, fp32, of int64 positions `[B, T]`; one row serves all.

    `factor` divides the positions (linear scaling), so that longer rows fall into the range trained on. Frequencies are
    1 / base^e, rounded as the published models round them: base^-e has other last bits, which far positions magnify.
    """
    exponents = torch.arange(0, head_dim, 2, dtype=torch.float32, device=position_BT.device) / head_dim
    angles = (position_BT.float() / factor)[:, :, None] * (1.0 / base**exponents)
    return torch.stack((angles.cos(), angles.sin()))


def rotate_half_split(x_BTHd: Tensor, table: Tensor) -> Tensor:
    """Turn every channel pair (i, i + d/2) of each head by its position's angle; x's shape and dtype."""
    cos, sin = table[:, :, :, None].unbind(0)
    low, high = x_BTHd.float().chunk(2, dim=-1)
    return torch.cat((low * cos - high * sin, low * sin + high * cos), dim=-1).to(x_BTHd.dtype)


def rotate_interleaved(x_BTHd: Tensor, table: Tensor) -> Tensor:
    """Turn every channel pair (2i, 2i + 1) of each head by its position's angle; x's shape and dtype."""
    cos, sin = table[:, :, :, None].unbind(0)
    even, odd = x_BTHd.float().unflatten(-1, (-1, 2)).unbind(-1)
    return torch.stack((even * cos - odd * sin, even * sin + odd * cos), dim=-1).flatten(-2).to(x_BTHd.dtype)

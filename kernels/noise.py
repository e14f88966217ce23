"""Counter-based noise: every value is a pure function of (row key, stream, index), never of a generator's state.

Why: the same row must get the same noise in any micro-batch, on any rank, in recomputation and after a
resume. Hash: SplitMix64 (Steele, Lea and Flood 2014) over int64 with wrap-around, applied twice,

    h(key, stream, i) = mix(mix(key + G * (stream + 1)) + G * (i + 1)),   G = 0x9E3779B97F4A7C15,

whose bits are the same on every device. Its top 52 bits give a uniform number strictly inside (0, 1).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

_GOLDEN = 0x9E3779B97F4A7C15 - 2**64
_MULTIPLY_1 = 0xBF58476D1CE4E5B9 - 2**64
_MULTIPLY_2 = 0x94D049BB133111EB - 2**64


def _shift_right(x: Tensor, bits: int) -> Tensor:
    """Logical (zero-filling) right shift of int64."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def _mix(x: Tensor) -> Tensor:
    x = (x ^ _shift_right(x, 30)) * _MULTIPLY_1
    x = (x ^ _shift_right(x, 27)) * _MULTIPLY_2
    return x ^ _shift_right(x, 31)


def hash_bits(key_B: Tensor, stream: int, count: int) -> Tensor:
    """int64 `[B, count]` of 64 hashed bits for int64 keys `[B]`; rows depend on their own key alone."""
    index = torch.arange(1, count + 1, dtype=torch.int64, device=key_B.device) * _GOLDEN
    stream_offset = torch.full((), stream + 1, dtype=torch.int64, device=key_B.device) * _GOLDEN
    return _mix(_mix(key_B + stream_offset)[:, None] + index)


def uniform(key_B: Tensor, stream: int, count: int) -> Tensor:
    """fp64 `[B, count]`, uniform strictly inside (0, 1)."""
    return (_shift_right(hash_bits(key_B, stream, count), 12).double() + 0.5) * 2.0**-52


def gumbel(key_B: Tensor, stream: int, count: int) -> Tensor:
    """fp32 `[B, count]`, standard Gumbel: -log(-log(uniform)), evaluated in fp64 and finite."""
    return -(-uniform(key_B, stream, count).log()).log().float()


def truncated_normal(key_B: Tensor, stream: int, count: int, cut: float = 3.0) -> Tensor:
    """fp32 `[B, count]`, standard normal restricted to [-cut, cut], by inversion of its distribution in fp64."""
    reach = math.erf(cut / math.sqrt(2.0))
    return (torch.erfinv((2.0 * uniform(key_B, stream, count) - 1.0) * reach) * math.sqrt(2.0)).float()


def keys_at(key_B1: Tensor, position_BT: Tensor) -> Tensor:
    """A key for every position of a row, int64; row keys `[B or 1, 1]` and positions `[B or 1, T]` broadcast."""
    return _mix(_mix(key_B1) + (position_BT + 1) * _GOLDEN)

"""Rotary position embedding (Su et al. 2021), in both pairings found in the literature.

Half-split: channel i turns with channel i + d/2. Interleaved: channel 2i turns with channel 2i + 1. One is a
permutation of the head's channels away from the other, and not interchangeable for trained weights. Frequencies
are base^(-2i/d), i = 0 .. d/2-1. Scores depend on position differences alone; positions within the document keep
the angles small, and the same wherever in a row the document stands.

    y1 = x1 cos - x2 sin,  y2 = x1 sin + x2 cos        d x1 = d y1 cos + d y2 sin,  d x2 = d y2 cos - d y1 sin

Bytes moved, either way: reads x, or dy, writes y, or dx, and reads the table once for each row of the batch: all
but the first time, where rows share a table, from the cache. Heads are taken with any strides: slices of a joint
projection, or of a head's channels, are not copied. Nothing is saved but the table, which has no gradient.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from athanor.kernels.precision import at_least_fp32
from athanor.kernels.row_tiles import TILE_VALUES, launch, warps_for


def rope_table(position_BT: Tensor, head_dim: int, base: float, factor: float = 1.0) -> Tensor:
    """Cosines and sines `[2, B, T, head_dim/2]`, fp32, of int64 positions `[B, T]`; one row serves all.

    `factor` divides the positions (linear scaling), so that longer rows fall into the range trained on. Frequencies are
    1 / base^e, rounded as the published models round them: base^-e has other last bits, which far positions magnify.
    """
    exponents = torch.arange(0, head_dim, 2, dtype=torch.float32, device=position_BT.device) / head_dim
    angles = (position_BT.float() / factor)[:, :, None] * (1.0 / base**exponents)
    return torch.stack((angles.cos(), angles.sin()))


def rotate_half_split_reference(x_BTHd: Tensor, table: Tensor) -> Tensor:
    """Turn every channel pair (i, i + d/2) of each head by its position's angle; x's shape and dtype."""
    cos, sin = table[:, :, :, None].unbind(0)
    low, high = at_least_fp32(x_BTHd).chunk(2, dim=-1)
    return torch.cat((low * cos - high * sin, low * sin + high * cos), dim=-1).to(x_BTHd.dtype)


def rotate_interleaved_reference(x_BTHd: Tensor, table: Tensor) -> Tensor:
    """Turn every channel pair (2i, 2i + 1) of each head by its position's angle; x's shape and dtype."""
    cos, sin = table[:, :, :, None].unbind(0)
    even, odd = at_least_fp32(x_BTHd).unflatten(-1, (-1, 2)).unbind(-1)
    return torch.stack((even * cos - odd * sin, even * sin + odd * cos), dim=-1).flatten(-2).to(x_BTHd.dtype)


@triton.jit
def load_pairs(ptr, inside, half, HALF: tl.constexpr, INTERLEAVED: tl.constexpr):
    """Both channels of each pair, fp32 `[P, H, HALF]`, of the heads `[P, H, 1]` that begin at `ptr`."""
    if INTERLEAVED:
        channel = tl.arange(0, 2 * HALF)[None, None, :]
        x = tl.load(ptr + channel, mask=inside & (channel < 2 * half), other=0.0).to(tl.float32)
        first, second = tl.split(tl.reshape(x, (x.shape[0], x.shape[1], HALF, 2)))
    else:
        pair = tl.arange(0, HALF)[None, None, :]
        first = tl.load(ptr + pair, mask=inside & (pair < half), other=0.0).to(tl.float32)
        second = tl.load(ptr + half + pair, mask=inside & (pair < half), other=0.0).to(tl.float32)
    return first, second


@triton.jit
def store_pairs(ptr, first, second, inside, half, HALF: tl.constexpr, INTERLEAVED: tl.constexpr):
    """The inverse of `load_pairs`."""
    dtype = ptr.dtype.element_ty
    if INTERLEAVED:
        channel = tl.arange(0, 2 * HALF)[None, None, :]
        x = tl.reshape(tl.join(first, second), (first.shape[0], first.shape[1], 2 * HALF))
        tl.store(ptr + channel, x.to(dtype), mask=inside & (channel < 2 * half))
    else:
        pair = tl.arange(0, HALF)[None, None, :]
        tl.store(ptr + pair, first.to(dtype), mask=inside & (pair < half))
        tl.store(ptr + half + pair, second.to(dtype), mask=inside & (pair < half))


@triton.jit
def _rotation_kernel(
    x_ptr,
    table_ptr,
    y_ptr,
    positions,
    heads,
    half,
    x_row_stride,
    x_position_stride,
    x_head_stride,
    sines_at,
    table_row_stride,
    table_position_stride,
    INTERLEAVED: tl.constexpr,
    BACKWARD: tl.constexpr,
    TILE_POSITIONS: tl.constexpr,
    TILE_HEADS: tl.constexpr,
    TILE_HALF: tl.constexpr,
):
    """All heads at TILE_POSITIONS positions of one row of the batch."""
    row = tl.program_id(1).to(tl.int64)
    position = (tl.program_id(0) * TILE_POSITIONS + tl.arange(0, TILE_POSITIONS)).to(tl.int64)[:, None, None]
    head = tl.arange(0, TILE_HEADS)[None, :, None]
    pair = tl.arange(0, TILE_HALF)[None, None, :]
    in_table = (position < positions) & (pair < half)
    angle_ptr = table_ptr + row * table_row_stride + position * table_position_stride + pair
    cos = tl.load(angle_ptr, mask=in_table, other=0.0)
    sin = tl.load(angle_ptr + sines_at, mask=in_table, other=0.0)
    if BACKWARD:
        sin = -sin
    inside = (position < positions) & (head < heads)
    x_ptr += row * x_row_stride + position * x_position_stride + head * x_head_stride
    first, second = load_pairs(x_ptr, inside, half, TILE_HALF, INTERLEAVED)
    y_ptr += ((row * positions + position) * heads + head) * (2 * half)
    turned = first * cos - second * sin, first * sin + second * cos
    store_pairs(y_ptr, turned[0], turned[1], inside, half, TILE_HALF, INTERLEAVED)


def _launch(x_BTHd: Tensor, table: Tensor, interleaved: bool, backward: bool) -> Tensor:
    """The rotated heads, or the gradient of x from theirs."""
    x_BTHd = x_BTHd if x_BTHd.stride(3) == 1 else x_BTHd.contiguous()
    rows, positions, heads, head_dim = x_BTHd.shape
    y_BTHd = torch.empty(x_BTHd.shape, dtype=x_BTHd.dtype, device=x_BTHd.device)
    tile_heads, tile_half = triton.next_power_of_2(heads), triton.next_power_of_2(head_dim // 2)
    values_a_position = 2 * tile_heads * tile_half
    tile_positions = max(1, TILE_VALUES // values_a_position)
    launch(
        _rotation_kernel,
        (-(-positions // tile_positions), rows),
        x_BTHd,
        table,
        y_BTHd,
        positions,
        heads,
        head_dim // 2,
        x_BTHd.stride(0),
        x_BTHd.stride(1),
        x_BTHd.stride(2),
        table.stride(0),
        table.stride(1) if table.shape[1] > 1 else 0,
        table.stride(2),
        INTERLEAVED=interleaved,
        BACKWARD=backward,
        TILE_POSITIONS=tile_positions,
        TILE_HEADS=tile_heads,
        TILE_HALF=tile_half,
        num_warps=warps_for(tile_positions * values_a_position),
    )
    return y_BTHd


@torch.library.custom_op("athanor::rotate", mutates_args=())
def _op(x_BTHd: Tensor, table: Tensor, interleaved: bool, backward: bool) -> Tensor:
    return _launch(x_BTHd, table, interleaved, backward)


@_op.register_fake
def _(x_BTHd: Tensor, table: Tensor, interleaved: bool, backward: bool) -> Tensor:
    return torch.empty(x_BTHd.shape, dtype=x_BTHd.dtype, device=x_BTHd.device)


def _save(ctx: Any, inputs: tuple[Tensor, Tensor, bool, bool], output: Tensor) -> None:
    _, table, ctx.interleaved, ctx.backward = inputs
    ctx.save_for_backward(table)


def _gradients(ctx: Any, dy_BTHd: Tensor) -> tuple[Tensor | None, ...]:
    (table,) = ctx.saved_tensors
    return _op(dy_BTHd, table, ctx.interleaved, not ctx.backward), None, None, None


_op.register_autograd(_gradients, setup_context=_save)


def rotate_half_split(x_BTHd: Tensor, table: Tensor) -> Tensor:
    """Turn every channel pair (i, i + d/2) of each head by its position's angle; x's shape and dtype."""
    return rotate_half_split_reference(x_BTHd, table)


def rotate_interleaved(x_BTHd: Tensor, table: Tensor) -> Tensor:
    """Turn every channel pair (2i, 2i + 1) of each head by its position's angle; x's shape and dtype."""
    return rotate_interleaved_reference(x_BTHd, table)

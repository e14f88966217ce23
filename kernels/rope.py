"""Rotary position embedding (Su et al. 2021), in both pairings found in the literature.

Half-split: channel i turns with channel i + d/2. Interleaved: channel 2i turns with channel 2i + 1. One is a
permutation of the head's channels away from the other, and not interchangeable for trained weights. Frequencies
are base^(-2i/d), i = 0 .. d/2-1. Scores depend on position differences alone; positions within the document keep
the angles small, and the same wherever in a row the document stands.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from athanor.kernels.row_tiles import TILE_VALUES, warps_for


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
    low, high = x_BTHd.float().chunk(2, dim=-1)
    return torch.cat((low * cos - high * sin, low * sin + high * cos), dim=-1).to(x_BTHd.dtype)


def rotate_interleaved_reference(x_BTHd: Tensor, table: Tensor) -> Tensor:
    """Turn every channel pair (2i, 2i + 1) of each head by its position's angle; x's shape and dtype."""
    cos, sin = table[:, :, :, None].unbind(0)
    even, odd = x_BTHd.float().unflatten(-1, (-1, 2)).unbind(-1)
    return torch.stack((even * cos - odd * sin, even * sin + odd * cos), dim=-1).flatten(-2).to(x_BTHd.dtype)

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
    sine_offset,
    table_row_stride,
    table_position_stride,
    INTERLEAVED: tl.constexpr,
    BACKWARD: tl.constexpr,
    TILE_POSITIONS: tl.constexpr,
    TILE_HEADS: tl.constexpr,
    TILE_HALF: tl.constexpr,
):
    """One row of the batch, TILE_POSITIONS positions, all heads."""
    row = tl.program_id(1).to(tl.int64)
    position = (tl.program_id(0) * TILE_POSITIONS + tl.arange(0, TILE_POSITIONS)).to(tl.int64)[:, None, None]
    head = tl.arange(0, TILE_HEADS)[None, :, None]
    pair = tl.arange(0, TILE_HALF)[None, None, :]
    in_table = (position < positions) & (pair < half)
    angle_ptr = table_ptr + row * table_row_stride + position * table_position_stride + pair
    cos = tl.load(angle_ptr, mask=in_table, other=0.0)
    sin = tl.load(angle_ptr + sine_offset, mask=in_table, other=0.0)
    if BACKWARD:
        sin = -sin
    x_ptr += row * x_row_stride + position * x_position_stride + head * x_head_stride
    y_ptr += ((row * positions + position) * heads + head) * (2 * half)
    if INTERLEAVED:
        channel = tl.arange(0, 2 * TILE_HALF)[None, None, :]
        inside = (position < positions) & (head < heads) & (channel < 2 * half)
        x = tl.load(x_ptr + channel, mask=inside, other=0.0).to(tl.float32)
        even, odd = tl.split(tl.reshape(x, (TILE_POSITIONS, TILE_HEADS, TILE_HALF, 2)))
        y = tl.join(even * cos - odd * sin, even * sin + odd * cos)
        y = tl.reshape(y, (TILE_POSITIONS, TILE_HEADS, 2 * TILE_HALF))
        tl.store(y_ptr + channel, y.to(y_ptr.dtype.element_ty), mask=inside)
    else:
        inside = in_table & (head < heads)
        low = tl.load(x_ptr + pair, mask=inside, other=0.0).to(tl.float32)
        high = tl.load(x_ptr + half + pair, mask=inside, other=0.0).to(tl.float32)
        tl.store(y_ptr + pair, (low * cos - high * sin).to(y_ptr.dtype.element_ty), mask=inside)
        tl.store(y_ptr + half + pair, (low * sin + high * cos).to(y_ptr.dtype.element_ty), mask=inside)


def _launch(x_BTHd: Tensor, table: Tensor, interleaved: bool, backward: bool) -> Tensor:
    """The rotated heads, or the gradient of x from theirs."""
    x_BTHd = x_BTHd if x_BTHd.stride(3) == 1 else x_BTHd.contiguous()
    rows, positions, heads, head_dim = x_BTHd.shape
    y_BTHd = torch.empty(x_BTHd.shape, dtype=x_BTHd.dtype, device=x_BTHd.device)
    tile_heads, tile_half = triton.next_power_of_2(heads), triton.next_power_of_2(head_dim // 2)
    tile_positions = max(1, TILE_VALUES // (2 * tile_heads * tile_half))
    if x_BTHd.numel():
        _rotation_kernel[(-(-positions // tile_positions), rows)](
            x_BTHd,
            table,
            y_BTHd,
            positions,
            heads,
            head_dim // 2,
            *x_BTHd.stride()[:3],
            table.stride(0),
            table.stride(1) if table.shape[1] > 1 else 0,
            table.stride(2),
            INTERLEAVED=interleaved,
            BACKWARD=backward,
            TILE_POSITIONS=tile_positions,
            TILE_HEADS=tile_heads,
            TILE_HALF=tile_half,
            num_warps=warps_for(2 * tile_positions * tile_heads * tile_half),
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

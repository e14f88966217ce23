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

from collections.abc import Callable
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from athanor.kernels.kind import Compiled, Cost, Example, Kernel, unfit, uses_triton
from athanor.kernels.launch import launch
from athanor.kernels.precision import at_least_fp32
from athanor.kernels.row_tiles import TILE_VALUES, size_bytes, warps_for

MOST_VALUES = 16_384  # of all heads at a position, which a program holds at once


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
    tiles_a_row = tl.cdiv(positions, TILE_POSITIONS)
    row = (tl.program_id(0) // tiles_a_row).to(tl.int64)
    position = (tl.program_id(0) % tiles_a_row * TILE_POSITIONS + tl.arange(0, TILE_POSITIONS)).to(tl.int64)[
        :, None, None
    ]
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


def _tile(heads: int, head_dim: int) -> tuple[int, int, int]:
    """Positions, heads and channel pairs of a program."""
    tile_heads, tile_half = triton.next_power_of_2(heads), triton.next_power_of_2(head_dim // 2)
    return max(1, TILE_VALUES // (2 * tile_heads * tile_half)), tile_heads, tile_half


def _launch(x_BTHd: Tensor, table: Tensor, interleaved: bool, backward: bool) -> Tensor:
    """The rotated heads, or the gradient of x from theirs."""
    x_BTHd = x_BTHd if x_BTHd.stride(3) == 1 else x_BTHd.contiguous()
    rows, positions, heads, head_dim = x_BTHd.shape
    y_BTHd = torch.empty(x_BTHd.shape, dtype=x_BTHd.dtype, device=x_BTHd.device)
    tile_positions, tile_heads, tile_half = _tile(heads, head_dim)
    launch(
        _rotation_kernel,
        rows * triton.cdiv(positions, tile_positions),
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


def _refuses(x_BTHd: Tensor, table: Tensor) -> str | None:
    heads, head_dim = x_BTHd.shape[2:]
    if not 0 < heads * head_dim <= MOST_VALUES:
        return f"{heads * head_dim:,} channels at a position, not 1 to {MOST_VALUES:,}"
    if table.dtype != torch.float32 or table.stride(3) != 1 or table.requires_grad:
        return "the table is not as rope_table makes it"
    return unfit(x_BTHd)


def _cost(x_BTHd: Tensor, table: Tensor) -> Cost:
    """Forward and backward alike."""
    times = 1 if table.shape[1] == x_BTHd.shape[0] else x_BTHd.shape[0]
    return Cost(size_bytes(x_BTHd) + times * size_bytes(table), size_bytes(x_BTHd), 3 * x_BTHd.numel())


def _compiled(heads: int, head_dim: int, dtype: str, interleaved: bool, backward: bool) -> Compiled:
    tile_positions, tile_heads, tile_half = _tile(heads, head_dim)
    sizes = ("half", "x_row_stride", "x_position_stride", "x_head_stride")
    angles = ("sines_at", "table_row_stride", "table_position_stride")
    signature = {
        "x_ptr": f"*{dtype}",
        "table_ptr": "*fp32",
        "y_ptr": f"*{dtype}",
        "positions": "i32:16",
        "heads": "i32",
    }
    signature |= dict.fromkeys((*sizes, *angles), "i32:16")
    constants = {"INTERLEAVED": interleaved, "BACKWARD": backward}
    constants |= {"TILE_POSITIONS": tile_positions, "TILE_HEADS": tile_heads, "TILE_HALF": tile_half}
    name = f"{'backward' if backward else 'forward'} {heads} x {head_dim} {dtype}"
    return Compiled(
        name, _rotation_kernel, signature, constants, warps_for(2 * tile_positions * tile_heads * tile_half)
    )


def _kernel(name: str, pairs: str, reference: Callable[[Tensor, Tensor], Tensor], interleaved: bool) -> Kernel:
    return Kernel(
        name=name,
        what=f"RoPE that turns channel {pairs}",
        reference=reference,
        refuses=_refuses,
        forward_cost=_cost,
        backward_cost=_cost,
        compiled=tuple(
            _compiled(heads, head_dim, "bf16", interleaved, backward)
            for heads, head_dim in ((1, 64), (16, 64), (55, 96))
            for backward in (False, True)
        ),
        examples=(
            Example(
                "queries of polychromatic-600m",
                lambda device, dtype: (
                    torch.empty(16, 4096, 16, 64, device=device, dtype=dtype),
                    torch.empty(2, 16, 4096, 32, device=device),
                ),
            ),
        ),
    )


KERNEL = (
    _kernel("rotate_half_split", "i with i + d/2", rotate_half_split_reference, interleaved=False),
    _kernel("rotate_interleaved", "2i with 2i + 1", rotate_interleaved_reference, interleaved=True),
)
_HALF_SPLIT, _INTERLEAVED = KERNEL


def rotate_half_split(x_BTHd: Tensor, table: Tensor) -> Tensor:
    """Turn every channel pair (i, i + d/2) of each head by its position's angle; x's shape and dtype."""
    if uses_triton(_HALF_SPLIT, x_BTHd, table):
        return _op(x_BTHd, table, False, False)
    return rotate_half_split_reference(x_BTHd, table)


def rotate_interleaved(x_BTHd: Tensor, table: Tensor) -> Tensor:
    """Turn every channel pair (2i, 2i + 1) of each head by its position's angle; x's shape and dtype."""
    if uses_triton(_INTERLEAVED, x_BTHd, table):
        return _op(x_BTHd, table, True, False)
    return rotate_interleaved_reference(x_BTHd, table)

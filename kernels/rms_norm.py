"""Root-mean-square normalisation: y = x * gain / sqrt(mean(x^2) + eps), statistics in fp32; alone, or of a sum.

    rms_norm       y = norm(x)
    add_rms_norm   s = x + branch;  y = norm(s)        the residual stream and what the next branch reads of it

With r = 1 / sqrt(mean(x^2) + eps) and g = gain * dy, over the last axis of D channels:

    dx = r g - x r^3 mean(g x)            d gain = sum over rows of dy x r

To that the sum adds ds; it is the gradient of x and of the branch alike.

Bytes moved: forward reads x (and the branch) and writes (s and) y; backward reads x, or s, and dy (and ds) and writes
dx, once more where the branch has another dtype. r is computed again in the backward pass, which has the row in
registers anyway: nothing is saved beside x, or s, and gain. Each program reads the gain and writes its part of d gain
once (kernels/row_tiles.py).
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor

from athanor.kernels.precision import at_least_fp32
from athanor.kernels.row_tiles import RowTiles, as_rows, launch


def rms_norm_reference(x: Tensor, gain: Tensor | None, eps: float) -> Tensor:
    """See rms_norm."""
    fine_gain = None if gain is None else at_least_fp32(gain)
    return F.rms_norm(at_least_fp32(x), x.shape[-1:], fine_gain, eps).to(x.dtype)


def add_rms_norm_reference(x: Tensor, branch: Tensor, gain: Tensor | None, eps: float) -> tuple[Tensor, Tensor]:
    """See add_rms_norm."""
    total = x + branch
    return total, rms_norm_reference(total, gain, eps)


@triton.jit
def _forward_kernel(
    x_ptr,
    branch_ptr,
    gain_ptr,
    total_ptr,
    y_ptr,
    rows,
    channels,
    x_stride,
    branch_stride,
    rows_each,
    eps,
    ADDS: tl.constexpr,
    HAS_GAIN: tl.constexpr,
    TILE_ROWS: tl.constexpr,
    TILE_CHANNELS: tl.constexpr,
):
    column = tl.arange(0, TILE_CHANNELS)
    if HAS_GAIN:
        gain = tl.load(gain_ptr + column, mask=column < channels, other=0.0).to(tl.float32)
    first = tl.program_id(0) * rows_each
    last = tl.minimum(first + rows_each, rows)
    for start in range(first, last, TILE_ROWS):
        row = (start + tl.arange(0, TILE_ROWS)).to(tl.int64)[:, None]
        inside = (row < last) & (column < channels)[None, :]
        x = tl.load(x_ptr + row * x_stride + column, mask=inside, other=0.0).to(tl.float32)
        out = row * channels + column
        if ADDS:
            x += tl.load(branch_ptr + row * branch_stride + column, mask=inside, other=0.0).to(tl.float32)
            stored = x.to(total_ptr.dtype.element_ty)
            tl.store(total_ptr + out, stored, mask=inside)
            x = stored.to(tl.float32)
        y = x * tl.rsqrt(tl.sum(x * x, axis=1) / channels + eps)[:, None]
        if HAS_GAIN:
            y *= gain[None, :]
        tl.store(y_ptr + out, y.to(y_ptr.dtype.element_ty), mask=inside)


@triton.jit
def _backward_kernel(
    dy_ptr,
    dtotal_ptr,
    x_ptr,
    gain_ptr,
    dx_ptr,
    dother_ptr,
    dgain_ptr,
    rows,
    channels,
    dy_stride,
    dtotal_stride,
    x_stride,
    rows_each,
    eps,
    ADDS: tl.constexpr,
    HAS_OTHER: tl.constexpr,
    HAS_GAIN: tl.constexpr,
    TILE_ROWS: tl.constexpr,
    TILE_CHANNELS: tl.constexpr,
):
    column = tl.arange(0, TILE_CHANNELS)
    if HAS_GAIN:
        gain = tl.load(gain_ptr + column, mask=column < channels, other=0.0).to(tl.float32)
        dgain = tl.zeros((TILE_ROWS, TILE_CHANNELS), tl.float32)
    first = tl.program_id(0) * rows_each
    last = tl.minimum(first + rows_each, rows)
    for start in range(first, last, TILE_ROWS):
        row = (start + tl.arange(0, TILE_ROWS)).to(tl.int64)[:, None]
        inside = (row < last) & (column < channels)[None, :]
        x = tl.load(x_ptr + row * x_stride + column, mask=inside, other=0.0).to(tl.float32)
        dy = tl.load(dy_ptr + row * dy_stride + column, mask=inside, other=0.0).to(tl.float32)
        root = tl.rsqrt(tl.sum(x * x, axis=1) / channels + eps)[:, None]
        normed = x * root
        if HAS_GAIN:
            dgain += dy * normed
            dy *= gain[None, :]
        dx = root * (dy - normed * (tl.sum(dy * normed, axis=1) / channels)[:, None])
        if ADDS:
            dx += tl.load(dtotal_ptr + row * dtotal_stride + column, mask=inside, other=0.0).to(tl.float32)
        out = row * channels + column
        tl.store(dx_ptr + out, dx.to(dx_ptr.dtype.element_ty), mask=inside)
        if HAS_OTHER:
            tl.store(dother_ptr + out, dx.to(dother_ptr.dtype.element_ty), mask=inside)
    if HAS_GAIN:
        part = tl.program_id(0).to(tl.int64) * channels + column
        tl.store(dgain_ptr + part, tl.sum(dgain, axis=0), mask=column < channels)


def _launch_forward(x: Tensor, branch: Tensor | None, gain: Tensor | None, eps: float) -> tuple[Tensor | None, Tensor]:
    """x + branch, if there is one, and its norm."""
    x_ND, branch_ND = as_rows(x), None if branch is None else as_rows(branch)
    dtype = x.dtype if branch is None else torch.promote_types(x.dtype, branch.dtype)
    total = None if branch is None else torch.empty(x.shape, dtype=dtype, device=x.device)
    y = torch.empty(x.shape, dtype=dtype, device=x.device)
    rows, channels = x_ND.shape
    tiles = RowTiles.of(rows, channels)
    launch(
        _forward_kernel,
        (tiles.programs,),
        x_ND,
        branch_ND,
        gain,
        total,
        y,
        rows,
        channels,
        x_ND.stride(0),
        0 if branch_ND is None else branch_ND.stride(0),
        tiles.rows_each,
        eps,
        ADDS=branch is not None,
        HAS_GAIN=gain is not None,
        TILE_ROWS=tiles.tile_rows,
        TILE_CHANNELS=tiles.tile_channels,
        num_warps=tiles.num_warps,
    )
    return total, y


def _launch_backward(
    dy: Tensor, dtotal: Tensor | None, x: Tensor, gain: Tensor | None, eps: float, other: torch.dtype | None
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """dx in x's dtype and, if asked for, in another; d gain."""
    dy_ND, x_ND = as_rows(dy), as_rows(x)
    dtotal_ND = None if dtotal is None else as_rows(dtotal)
    rows, channels = x_ND.shape
    tiles = RowTiles.of(rows, channels)
    dx = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    dother = None if other is None else torch.empty(x.shape, dtype=other, device=x.device)
    parts_PD = None if gain is None else gain.new_empty((tiles.programs, channels), dtype=torch.float32)
    launch(
        _backward_kernel,
        (tiles.programs,),
        dy_ND,
        dtotal_ND,
        x_ND,
        gain,
        dx,
        dother,
        parts_PD,
        rows,
        channels,
        dy_ND.stride(0),
        0 if dtotal_ND is None else dtotal_ND.stride(0),
        x_ND.stride(0),
        tiles.rows_each,
        eps,
        ADDS=dtotal is not None,
        HAS_OTHER=other is not None,
        HAS_GAIN=gain is not None,
        TILE_ROWS=tiles.tile_rows,
        TILE_CHANNELS=tiles.tile_channels,
        num_warps=tiles.num_warps,
    )
    dgain = None if gain is None or parts_PD is None else parts_PD.sum(0).to(gain.dtype)
    return dx, dother, dgain


@torch.library.custom_op("athanor::rms_norm", mutates_args=())
def _norm_op(x: Tensor, gain: Tensor | None, eps: float) -> Tensor:
    return _launch_forward(x, None, gain, eps)[1]


@_norm_op.register_fake
def _(x: Tensor, gain: Tensor | None, eps: float) -> Tensor:
    return torch.empty(x.shape, dtype=x.dtype, device=x.device)


@torch.library.custom_op("athanor::add_rms_norm", mutates_args=())
def _add_op(x: Tensor, branch: Tensor, gain: Tensor | None, eps: float) -> tuple[Tensor, Tensor]:
    total, y = _launch_forward(x, branch, gain, eps)
    assert total is not None
    return total, y


@_add_op.register_fake
def _(x: Tensor, branch: Tensor, gain: Tensor | None, eps: float) -> tuple[Tensor, Tensor]:
    dtype = torch.promote_types(x.dtype, branch.dtype)
    total, y = (torch.empty(x.shape, dtype=dtype, device=x.device) for _ in range(2))
    return total, y


@torch.library.custom_op("athanor::rms_norm_backward", mutates_args=())
def _backward_op(
    dy: Tensor, dtotal: Tensor | None, x: Tensor, gain: Tensor | None, eps: float, other: torch.dtype | None
) -> list[Tensor]:
    found = _launch_backward(dy, dtotal, x, gain, eps, other)
    return [tensor for tensor in found if tensor is not None]


@_backward_op.register_fake
def _(
    dy: Tensor, dtotal: Tensor | None, x: Tensor, gain: Tensor | None, eps: float, other: torch.dtype | None
) -> list[Tensor]:
    found = [torch.empty(x.shape, dtype=dtype, device=x.device) for dtype in (x.dtype, other) if dtype is not None]
    return found if gain is None else [*found, torch.empty(gain.shape, dtype=gain.dtype, device=x.device)]


def _save_norm(ctx: Any, inputs: tuple[Tensor, Tensor | None, float], output: Tensor) -> None:
    x, gain, ctx.eps = inputs
    ctx.save_for_backward(x, gain)


def _norm_gradients(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
    x, gain = ctx.saved_tensors
    dx, *dgain = _backward_op(dy, None, x, gain, ctx.eps, None)
    return dx, dgain[0] if dgain else None, None


def _save_add(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor | None, float], output: tuple[Tensor, Tensor]) -> None:
    x, branch, gain, ctx.eps = inputs
    ctx.dtypes = x.dtype, branch.dtype
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(output[0], gain)


def _add_gradients(ctx: Any, dtotal: Tensor | None, dy: Tensor | None) -> tuple[Tensor | None, ...]:
    total, gain = ctx.saved_tensors
    if dy is None:
        dy = torch.zeros_like(total)
    other = [dtype for dtype in ctx.dtypes if dtype != total.dtype]
    found = _backward_op(dy, dtotal, total, gain, ctx.eps, other[0] if other else None)
    dgain = None if gain is None else found[-1]
    by_dtype = {tensor.dtype: tensor for tensor in found[: 1 + len(other)]}
    return by_dtype[ctx.dtypes[0]], by_dtype[ctx.dtypes[1]], dgain, None


_norm_op.register_autograd(_norm_gradients, setup_context=_save_norm)
_add_op.register_autograd(_add_gradients, setup_context=_save_add)


def rms_norm(x: Tensor, gain: Tensor | None, eps: float) -> Tensor:
    """Normalise the last axis of `x [..., D]` and scale by `gain [D]`, if any; returns x's shape and dtype."""
    return rms_norm_reference(x, gain, eps)


def add_rms_norm(x: Tensor, branch: Tensor, gain: Tensor | None, eps: float) -> tuple[Tensor, Tensor]:
    """x + branch, both `[..., D]`, and its norm over the last axis, scaled by `gain [D]`, if any; both in the dtype
    that x and branch add up to."""
    return add_rms_norm_reference(x, branch, gain, eps)

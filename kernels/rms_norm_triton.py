"""The Triton form of kernels/rms_norm.py, where the maths stands: forward and backward, of a tensor or of a sum."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from athanor.kernels.launch import launch
from athanor.kernels.row_tiles import RowTiles, as_rows


@triton.jit
def forward_kernel(
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
def backward_kernel(
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


def forward(
    x: Tensor, branch: Tensor | None, gain: Tensor | None, eps: float, dtype: torch.dtype
) -> tuple[Tensor | None, Tensor]:
    """x + branch, if there is one, and its norm in `dtype`."""
    x_ND, branch_ND, total = as_rows(x), None, None
    if branch is not None:
        branch_ND = as_rows(branch)
        total = torch.empty(x.shape, dtype=torch.promote_types(x.dtype, branch.dtype), device=x.device)
    y = torch.empty(x.shape, dtype=dtype, device=x.device)
    rows, channels = x_ND.shape
    tiles = RowTiles.of(rows, channels)
    launch(
        forward_kernel,
        tiles.programs,
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


def backward(
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
        backward_kernel,
        tiles.programs,
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

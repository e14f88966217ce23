"""Dynamic tanh (Zhu et al. 2025), a norm without statistics: y = gain * tanh(alpha x) + bias, computed in fp32.

With t = tanh(alpha x) and u = gain dy (1 - t^2), over rows of D channels:

    dx = alpha u      d alpha = sum of u x      d gain = sum over rows of dy t      d bias = sum over rows of dy

Bytes moved: forward reads x and writes y; backward reads x and dy and writes dx. t is computed again in the backward
pass: nothing is saved beside the arguments. Each program writes its part of the gradients of alpha, gain and bias, in
fp32 (kernels/row_tiles.py).
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from athanor.kernels.kind import Compiled, Cost, Example, Kernel, unfit, uses_triton
from athanor.kernels.launch import launch
from athanor.kernels.precision import at_least_fp32
from athanor.kernels.row_tiles import LEAST_ROWS, RowTiles, as_rows, size_bytes, unfit_rows

FORWARD_FLOPS, BACKWARD_FLOPS = 16, 24  # an element, an exponential counted as one


def dynamic_tanh_reference(x: Tensor, alpha: Tensor, gain: Tensor, bias: Tensor) -> Tensor:
    """See dynamic_tanh."""
    fine_x, fine_alpha, fine_gain, fine_bias = map(at_least_fp32, (x, alpha, gain, bias))
    return torch.addcmul(fine_bias, fine_gain, torch.tanh(fine_alpha * fine_x)).to(x.dtype)


@triton.jit
def _tanh(x):
    """tanh(x) and its slope 1 - tanh(x)^2, to the last bits of fp32: quotients of exponentials, of which that of tanh
    cancels near 0, and there the series."""
    size = tl.abs(x)
    square = x * x
    series = 1.0 + square * (-1 / 3 + square * (2 / 15 + square * (-17 / 315 + square * (62 / 2835))))
    shrunk = tl.exp(-2.0 * size)
    quotient = (1.0 - shrunk) / (1.0 + shrunk)
    tanh = tl.where(size < 0.25, x * series, tl.where(x < 0, -quotient, quotient))
    return tanh, 4.0 * shrunk / ((1.0 + shrunk) * (1.0 + shrunk))


@triton.jit
def _forward_kernel(
    x_ptr,
    alpha_ptr,
    gain_ptr,
    bias_ptr,
    y_ptr,
    rows,
    channels,
    x_stride,
    rows_each,
    TILE_ROWS: tl.constexpr,
    TILE_CHANNELS: tl.constexpr,
):
    column = tl.arange(0, TILE_CHANNELS)
    alpha = tl.load(alpha_ptr).to(tl.float32)
    gain = tl.load(gain_ptr + column, mask=column < channels, other=0.0).to(tl.float32)
    bias = tl.load(bias_ptr + column, mask=column < channels, other=0.0).to(tl.float32)
    first = tl.program_id(0) * rows_each
    last = tl.minimum(first + rows_each, rows)
    for start in range(first, last, TILE_ROWS):
        row = (start + tl.arange(0, TILE_ROWS)).to(tl.int64)[:, None]
        inside = (row < last) & (column < channels)[None, :]
        x = tl.load(x_ptr + row * x_stride + column, mask=inside, other=0.0).to(tl.float32)
        t, _ = _tanh(alpha * x)
        y = gain[None, :] * t + bias[None, :]
        tl.store(y_ptr + row * channels + column, y.to(y_ptr.dtype.element_ty), mask=inside)


@triton.jit
def _backward_kernel(
    dy_ptr,
    x_ptr,
    alpha_ptr,
    gain_ptr,
    dx_ptr,
    dalpha_ptr,
    dgain_ptr,
    dbias_ptr,
    rows,
    channels,
    dy_stride,
    x_stride,
    rows_each,
    TILE_ROWS: tl.constexpr,
    TILE_CHANNELS: tl.constexpr,
):
    column = tl.arange(0, TILE_CHANNELS)
    alpha = tl.load(alpha_ptr).to(tl.float32)
    gain = tl.load(gain_ptr + column, mask=column < channels, other=0.0).to(tl.float32)
    dalpha = tl.zeros((TILE_ROWS, TILE_CHANNELS), tl.float32)
    dgain = tl.zeros((TILE_ROWS, TILE_CHANNELS), tl.float32)
    dbias = tl.zeros((TILE_ROWS, TILE_CHANNELS), tl.float32)
    program = tl.program_id(0)
    first = program * rows_each
    last = tl.minimum(first + rows_each, rows)
    for start in range(first, last, TILE_ROWS):
        row = (start + tl.arange(0, TILE_ROWS)).to(tl.int64)[:, None]
        inside = (row < last) & (column < channels)[None, :]
        x = tl.load(x_ptr + row * x_stride + column, mask=inside, other=0.0).to(tl.float32)
        dy = tl.load(dy_ptr + row * dy_stride + column, mask=inside, other=0.0).to(tl.float32)
        t, slope = _tanh(alpha * x)
        u = gain[None, :] * dy * slope
        dalpha += u * x
        dgain += dy * t
        dbias += dy
        dx = alpha * u
        tl.store(dx_ptr + row * channels + column, dx.to(dx_ptr.dtype.element_ty), mask=inside)
    part = program.to(tl.int64) * channels + column
    tl.store(dalpha_ptr + program, tl.sum(tl.sum(dalpha, axis=1), axis=0))
    tl.store(dgain_ptr + part, tl.sum(dgain, axis=0), mask=column < channels)
    tl.store(dbias_ptr + part, tl.sum(dbias, axis=0), mask=column < channels)


def _tiles(x: Tensor) -> RowTiles:
    return RowTiles.of(x.numel() // x.shape[-1], x.shape[-1], least_rows=2 * LEAST_ROWS)


def _launch_forward(x: Tensor, alpha: Tensor, gain: Tensor, bias: Tensor) -> Tensor:
    x_ND, y = as_rows(x), torch.empty(x.shape, dtype=x.dtype, device=x.device)
    tiles = _tiles(x)
    launch(
        _forward_kernel,
        tiles.programs,
        x_ND,
        alpha,
        gain,
        bias,
        y,
        *x_ND.shape,
        x_ND.stride(0),
        tiles.rows_each,
        TILE_ROWS=tiles.tile_rows,
        TILE_CHANNELS=tiles.tile_channels,
        num_warps=tiles.num_warps,
    )
    return y


def _launch_backward(
    dy: Tensor, x: Tensor, alpha: Tensor, gain: Tensor, bias: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    dy_ND, x_ND = as_rows(dy), as_rows(x)
    tiles = _tiles(x)
    dx = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    dalpha_P1 = torch.empty((tiles.programs, 1), dtype=torch.float32, device=x.device)
    dgain_PD, dbias_PD = torch.empty((2, tiles.programs, x.shape[-1]), dtype=torch.float32, device=x.device)
    launch(
        _backward_kernel,
        tiles.programs,
        dy_ND,
        x_ND,
        alpha,
        gain,
        dx,
        dalpha_P1,
        dgain_PD,
        dbias_PD,
        *x_ND.shape,
        dy_ND.stride(0),
        x_ND.stride(0),
        tiles.rows_each,
        TILE_ROWS=tiles.tile_rows,
        TILE_CHANNELS=tiles.tile_channels,
        num_warps=tiles.num_warps,
    )
    parts = ((dalpha_P1, alpha), (dgain_PD, gain), (dbias_PD, bias))
    dalpha, dgain, dbias = (part.sum(0).to(of.dtype) for part, of in parts)
    return dx, dalpha, dgain, dbias


@torch.library.custom_op("athanor::dynamic_tanh", mutates_args=())
def _op(x: Tensor, alpha: Tensor, gain: Tensor, bias: Tensor) -> Tensor:
    return _launch_forward(x, alpha, gain, bias)


@_op.register_fake
def _(x: Tensor, alpha: Tensor, gain: Tensor, bias: Tensor) -> Tensor:
    return torch.empty(x.shape, dtype=x.dtype, device=x.device)


@torch.library.custom_op("athanor::dynamic_tanh_backward", mutates_args=())
def _backward_op(
    dy: Tensor, x: Tensor, alpha: Tensor, gain: Tensor, bias: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return _launch_backward(dy, x, alpha, gain, bias)


@_backward_op.register_fake
def _(dy: Tensor, *saved: Tensor) -> tuple[Tensor, ...]:
    return tuple(torch.empty(tensor.shape, dtype=tensor.dtype, device=tensor.device) for tensor in saved)


def _save(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _gradients(ctx: Any, dy: Tensor) -> tuple[Tensor, ...]:
    return _backward_op(dy, *ctx.saved_tensors)


_op.register_autograd(_gradients, setup_context=_save)


def _refuses(x: Tensor, alpha: Tensor, gain: Tensor, bias: Tensor) -> str | None:
    return unfit_rows(x) or unfit(x, alpha, gain, bias)


def _forward_cost(x: Tensor, alpha: Tensor, gain: Tensor, bias: Tensor) -> Cost:
    read_bytes = sum(size_bytes(tensor) for tensor in (x, alpha, gain, bias))
    return Cost(read_bytes, size_bytes(x), FORWARD_FLOPS * x.numel())


def _backward_cost(x: Tensor, alpha: Tensor, gain: Tensor, bias: Tensor) -> Cost:
    parts_bytes = 4 * (2 * x.shape[-1] + 1) * _tiles(x).programs
    read_bytes = 2 * size_bytes(x) + size_bytes(alpha) + size_bytes(gain)
    return Cost(read_bytes, size_bytes(x) + parts_bytes, BACKWARD_FLOPS * x.numel())


def _compiled(channels: int, dtype: str) -> tuple[Compiled, ...]:
    tiles = RowTiles.of(16 * 4096, channels)
    sizes = dict.fromkeys(("rows", "channels", "rows_each", "x_stride"), "i32:16")
    constants = {"TILE_ROWS": tiles.tile_rows, "TILE_CHANNELS": tiles.tile_channels}
    vectors = dict.fromkeys(("alpha_ptr", "gain_ptr"), "*fp32")
    forward = dict.fromkeys(("x_ptr", "y_ptr"), f"*{dtype}") | vectors | {"bias_ptr": "*fp32"} | sizes
    backward = dict.fromkeys(("dy_ptr", "x_ptr", "dx_ptr"), f"*{dtype}") | vectors | sizes | {"dy_stride": "i32:16"}
    backward |= dict.fromkeys(("dalpha_ptr", "dgain_ptr", "dbias_ptr"), "*fp32")
    return (
        Compiled(f"forward {channels} {dtype}", _forward_kernel, forward, constants, tiles.num_warps),
        Compiled(f"backward {channels} {dtype}", _backward_kernel, backward, constants, tiles.num_warps),
    )


KERNEL = Kernel(
    name="dynamic_tanh",
    what="gain tanh(alpha x) + bias in place of a norm",
    reference=dynamic_tanh_reference,
    refuses=_refuses,
    forward_cost=_forward_cost,
    backward_cost=_backward_cost,
    compiled=(*_compiled(1024, "bf16"), *_compiled(1024, "fp32")),
    examples=(
        Example(
            "swa-mla-small with dynamic tanh",
            lambda device, dtype: (
                torch.empty(16, 4096, 1024, device=device, dtype=dtype),
                *(torch.empty(channels, device=device) for channels in (1, 1024, 1024)),
            ),
        ),
    ),
)


def dynamic_tanh(x: Tensor, alpha: Tensor, gain: Tensor, bias: Tensor) -> Tensor:
    """`x [..., D]`, `alpha [1]`, `gain` and `bias [D]`; computed in fp32, returns x's shape and dtype."""
    form = _op if uses_triton(KERNEL, x, alpha, gain, bias) else dynamic_tanh_reference
    return form(x, alpha, gain, bias)

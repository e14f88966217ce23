"""SwiGLU (Shazeer 2020): y = silu(u) * v, the gate and the value of a gated feed-forward layer.

    s = sigmoid(u),   du = dy v s (1 + u (1 - s)),   dv = dy u s

Bytes moved per element: forward reads u and v and writes y; backward reads dy, u and v and writes du and dv. Nothing
but the arguments is kept; s is computed again. Rows may lie apart, as the halves of a packed product do.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor

from athanor.kernels.kind import Compiled, Cost, Example, Kernel, unfit, uses_triton
from athanor.kernels.launch import launch
from athanor.kernels.row_form import common_rows, rows_of

BLOCK = 1024
FORWARD_FLOPS, BACKWARD_FLOPS = 5, 11  # an element, an exponential counted as one


def swiglu_reference(u_BTF: Tensor, v_BTF: Tensor) -> Tensor:
    """silu(u) * v, as torch computes it."""
    return F.silu(u_BTF) * v_BTF


@triton.jit
def _forward(u, v, y, width, u_stride, v_stride, BLOCK: tl.constexpr):
    """One block of one row; y is contiguous."""
    blocks = tl.cdiv(width, BLOCK)
    row = (tl.program_id(0) // blocks).to(tl.int64)
    column = (tl.program_id(0) % blocks).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = column < width
    u_x = tl.load(u + row * u_stride + column, mask=inside).to(tl.float32)
    v_x = tl.load(v + row * v_stride + column, mask=inside).to(tl.float32)
    tl.store(y + row * width + column, u_x * tl.sigmoid(u_x) * v_x, mask=inside)


@triton.jit
def _backward(dy, u, v, du, dv, width, dy_stride, u_stride, v_stride, BLOCK: tl.constexpr):
    """One block of one row; du and dv are contiguous."""
    blocks = tl.cdiv(width, BLOCK)
    row = (tl.program_id(0) // blocks).to(tl.int64)
    column = (tl.program_id(0) % blocks).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = column < width
    dy_x = tl.load(dy + row * dy_stride + column, mask=inside).to(tl.float32)
    u_x = tl.load(u + row * u_stride + column, mask=inside).to(tl.float32)
    v_x = tl.load(v + row * v_stride + column, mask=inside).to(tl.float32)
    gate = tl.sigmoid(u_x)
    tl.store(du + row * width + column, dy_x * v_x * gate * (1.0 + u_x * (1.0 - gate)), mask=inside)
    tl.store(dv + row * width + column, dy_x * u_x * gate, mask=inside)


@torch.library.custom_op("athanor::swiglu", mutates_args=())
def _swiglu(u: Tensor, v: Tensor) -> Tensor:
    y = torch.empty(u.shape, dtype=u.dtype, device=u.device)
    count, width, strides = common_rows(u, v)
    launch(_forward, count * triton.cdiv(width, BLOCK), u, v, y, width, *strides, BLOCK=BLOCK)
    return y


@_swiglu.register_fake
def _(u: Tensor, v: Tensor) -> Tensor:
    return torch.empty(u.shape, dtype=u.dtype, device=u.device)


@torch.library.custom_op("athanor::swiglu_backward", mutates_args=())
def _swiglu_backward(dy: Tensor, u: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    du, dv = (torch.empty(u.shape, dtype=u.dtype, device=u.device) for _ in range(2))
    dy = dy if rows_of(dy) else dy.contiguous()
    count, width, strides = common_rows(dy, u, v)
    launch(_backward, count * triton.cdiv(width, BLOCK), dy, u, v, du, dv, width, *strides, BLOCK=BLOCK)
    return du, dv


@_swiglu_backward.register_fake
def _(dy: Tensor, u: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    return tuple(torch.empty(u.shape, dtype=u.dtype, device=u.device) for _ in range(2))  # pyright: ignore


def _keep(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


_swiglu.register_autograd(lambda ctx, dy: _swiglu_backward(dy, *ctx.saved_tensors), setup_context=_keep)


def _refuses(u: Tensor, v: Tensor) -> str | None:
    if u.shape != v.shape or u.dtype != v.dtype:
        return "gate and value differ in shape or dtype"
    if rows_of(u) is None or rows_of(v) is None:
        return "the elements of a row do not lie side by side"
    return unfit(u)


def _forward_cost(u: Tensor, v: Tensor) -> Cost:
    return Cost(2 * u.numel() * u.element_size(), u.numel() * u.element_size(), FORWARD_FLOPS * u.numel())


def _backward_cost(u: Tensor, v: Tensor) -> Cost:
    return Cost(3 * u.numel() * u.element_size(), 2 * u.numel() * u.element_size(), BACKWARD_FLOPS * u.numel())


def _example(name: str, rows: int, width: int) -> Example:
    return Example(name, lambda device, dtype: tuple(torch.empty(2, rows, width, device=device, dtype=dtype).unbind(0)))


def _compiled(dtype: str) -> tuple[Compiled, ...]:
    sizes = {"width": "i32:16", "u_stride": "i32:16", "v_stride": "i32:16"}
    forward = {**dict.fromkeys(("u", "v", "y"), f"*{dtype}"), **sizes}
    backward = {**dict.fromkeys(("dy", "u", "v", "du", "dv"), f"*{dtype}"), "dy_stride": "i32:16", **sizes}
    return (
        Compiled(f"forward {dtype}", _forward, forward, {"BLOCK": BLOCK}),
        Compiled(f"backward {dtype}", _backward, backward, {"BLOCK": BLOCK}),
    )


KERNEL = Kernel(
    name="swiglu",
    what="silu(u) v of a gated feed-forward layer",
    reference=swiglu_reference,
    refuses=_refuses,
    forward_cost=_forward_cost,
    backward_cost=_backward_cost,
    compiled=(*_compiled("bf16"), *_compiled("fp32")),
    examples=(_example("vanilla-600m", 16 * 4096, 4096),),
)


def swiglu(u_BTF: Tensor, v_BTF: Tensor) -> Tensor:
    """silu(u) * v, elementwise; same shape and dtype as the arguments."""
    return _swiglu(u_BTF, v_BTF) if uses_triton(KERNEL, u_BTF, v_BTF) else swiglu_reference(u_BTF, v_BTF)

"""PolyGLU mixing: y = v * sum_k g_k(f) s_k(u), g = softmax_k(static[b, f, k] + dynamic[b, t, k]).

s = (ReLU, tanh, SiLU, exact erf-GELU), in this order, which is part of the checkpoint format. The logits
arrive divided by tau, so they may span hundreds: the softmax subtracts the maximum over k and runs in
fp32. Nothing of shape [B, T, F, K] is ever held: forward saves only its arguments, and backward
recomputes, with mix = sum_k g_k s_k,

    du = dy v sum_k g_k s_k'(u),   dv = dy mix,   dlogit_k = dy v g_k (s_k - mix).

Bytes moved per element: forward reads u and v and writes y; backward reads dy, u and v and writes du and dv. The
logits and their gradients are small beside these. The reference walks over chunks of T. In Triton a program keeps the
static logits of BLOCK neurons in registers while it walks over POSITIONS positions, sums dlogit over its positions
and over its neurons, and stores both sums; torch adds the programs' sums, in an order that never varies.

A dynamic part of length 1 along T (one gate for the whole row) keeps the weights at [B, 1, F]; its gradient is that
of the static part, summed over the neurons.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor

from athanor.kernels.chunks import ChunkSize
from athanor.kernels.kind import Compiled, Cost, Example, Kernel, unfit, uses_triton
from athanor.kernels.launch import launch
from athanor.kernels.row_form import rows_of

ACTIVATIONS = ("relu", "tanh", "silu", "gelu")
CHUNKS = ChunkSize(cpu=2**17, cuda=2**24)  # of neurons at some positions
BLOCK, POSITIONS = 1024, 64  # of a program: neurons, positions
FORWARD_FLOPS, BACKWARD_FLOPS = 44, 83  # an element, an exponential or erf counted as one


def _unnormalised_weights(static: list[Tensor], dynamic: list[Tensor]) -> tuple[list[Tensor], Tensor]:
    """exp(logit_k - max) for every k, and 1 / their sum. No exponential is less than the least normal number: beyond it
    there is no digit to win, and a CPU takes ten times as long to find that out."""
    weights = [s + d for s, d in zip(static, dynamic, strict=True)]
    top = weights[0]
    for logit in weights[1:]:
        top = torch.maximum(top, logit)
    least = math.log(torch.finfo(top.dtype).tiny) + 1.0
    for weight in weights:
        weight.sub_(top).clamp_(min=least).exp_()
    total = weights[0] + weights[1]
    for weight in weights[2:]:
        total += weight
    return weights, total.reciprocal_()


def _mix(weights: list[Tensor], values: tuple[Tensor, ...]) -> Tensor:
    mixed = weights[0] * values[0]
    for weight, value in zip(weights[1:], values[1:], strict=True):
        mixed.addcmul_(weight, value)
    return mixed


def _values(u: Tensor) -> tuple[Tensor, ...]:
    return F.relu(u), torch.tanh(u), F.silu(u), F.gelu(u)


def _values_and_slopes(u: Tensor) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    tanh, sigmoid = torch.tanh(u), torch.sigmoid(u)
    silu = u * sigmoid
    normal_cdf = torch.erf(u * math.sqrt(0.5)).add_(1.0).mul_(0.5)
    normal_pdf = (u * u).mul_(-0.5).exp_().mul_(1.0 / math.sqrt(2.0 * math.pi))
    values = F.relu(u), tanh, silu, u * normal_cdf
    silu_slope = torch.addcmul(sigmoid, silu, 1.0 - sigmoid)
    slopes = (u > 0).to(u.dtype), 1.0 - tanh * tanh, silu_slope, torch.addcmul(normal_cdf, u, normal_pdf)
    return values, slopes


class _PolyGLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, u_BTF: Tensor, v_BTF: Tensor, static_BKF: Tensor, dynamic_BTK: Tensor) -> Tensor:
        ctx.save_for_backward(u_BTF, v_BTF, static_BKF, dynamic_BTK)
        y_BTF = torch.empty_like(u_BTF)
        for chunk in _chunks(u_BTF):
            weights, inverse = _unnormalised_weights(*_logit_terms(static_BKF, dynamic_BTK, chunk))
            mixed = _mix(weights, _values(u_BTF[:, chunk].to(static_BKF.dtype))).mul_(inverse)
            torch.mul(mixed, v_BTF[:, chunk], out=y_BTF[:, chunk])
        return y_BTF

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        u_BTF, v_BTF, static_BKF, dynamic_BTK = ctx.saved_tensors
        dtype = static_BKF.dtype
        du_BTF, dv_BTF = torch.empty_like(u_BTF), torch.empty_like(v_BTF)
        dstatic_BKF = torch.zeros(len(u_BTF), *static_BKF.shape[1:], dtype=dtype, device=u_BTF.device)
        ddynamic_BTK = torch.zeros_like(dynamic_BTK)
        one_gate = dynamic_BTK.shape[1] == 1
        for chunk in _chunks(u_BTF):
            static, dynamic = _logit_terms(static_BKF, dynamic_BTK, chunk)
            weights, inverse = _unnormalised_weights(static, dynamic)
            values, slopes = _values_and_slopes(u_BTF[:, chunk].to(dtype))
            dy = grads[0][:, chunk].to(dtype)
            mixed = _mix(weights, values).mul_(inverse)
            torch.mul(dy, mixed, out=dv_BTF[:, chunk])
            dmixed = dy * v_BTF[:, chunk]
            scaled = dmixed if one_gate else dmixed * inverse
            torch.mul(_mix(weights, slopes).mul_(inverse), dmixed, out=du_BTF[:, chunk])
            for k, (weight, value) in enumerate(zip(weights, values, strict=True)):
                dlogit = (value - mixed).mul_(scaled)
                if one_gate:
                    dlogit = dlogit.sum(1, keepdim=True).mul_(inverse)
                dlogit.mul_(weight)
                dstatic_BKF[:, k] += dlogit.sum(1)
                ddynamic_BTK[:, slice(None) if one_gate else chunk, k] += dlogit.sum(2)
        return du_BTF, dv_BTF, dstatic_BKF.sum_to_size(static_BKF.shape), ddynamic_BTK


def _chunks(u_BTF: Tensor) -> Iterator[slice]:
    rows, length, width = u_BTF.shape
    return CHUNKS.slices(length, max(1, rows * width), u_BTF.device.type)


def _logit_terms(static_BKF: Tensor, dynamic_BTK: Tensor, chunk: slice) -> tuple[list[Tensor], list[Tensor]]:
    """Per activation: the static term [B or 1, 1, F] and the dynamic term [B, t or 1, 1]."""
    if dynamic_BTK.shape[1] > 1:
        dynamic_BTK = dynamic_BTK[:, chunk]
    return list(static_BKF[:, :, None].unbind(1)), list(dynamic_BTK[..., None].unbind(2))


def polyglu_reference(u_BTF: Tensor, v_BTF: Tensor, static_BFK: Tensor, dynamic_BTK: Tensor) -> Tensor:
    """The same as `polyglu` in torch, chunk by chunk."""
    static_BKF = static_BFK.transpose(1, 2).contiguous()
    return _PolyGLU.apply(u_BTF, v_BTF, static_BKF, dynamic_BTK)  # pyright: ignore[reportReturnType]


@triton.jit
def _weights(a0, a1, a2, a3):
    """softmax over the four logits."""
    top = tl.maximum(tl.maximum(a0, a1), tl.maximum(a2, a3))
    e0, e1, e2, e3 = tl.exp(a0 - top), tl.exp(a1 - top), tl.exp(a2 - top), tl.exp(a3 - top)
    inverse = 1.0 / (e0 + e1 + e2 + e3)
    return e0 * inverse, e1 * inverse, e2 * inverse, e3 * inverse


@triton.jit
def _forward(
    u,
    v,
    static,
    dynamic,
    y,
    length,
    width,
    static_row,
    dynamic_row,
    dynamic_step,
    u_stride,
    v_stride,
    BLOCK: tl.constexpr,
    POSITIONS: tl.constexpr,
):
    """BLOCK neurons at POSITIONS positions of one row; y is contiguous."""
    blocks, spans = tl.cdiv(width, BLOCK), tl.cdiv(length, POSITIONS)
    column = (tl.program_id(0) % blocks) * BLOCK + tl.arange(0, BLOCK)
    inside = column < width
    first = (tl.program_id(0) // blocks % spans) * POSITIONS
    row = (tl.program_id(0) // blocks // spans).to(tl.int64)
    here = static + row * static_row + column
    b0 = tl.load(here, mask=inside, other=0.0)
    b1 = tl.load(here + width, mask=inside, other=0.0)
    b2 = tl.load(here + 2 * width, mask=inside, other=0.0)
    b3 = tl.load(here + 3 * width, mask=inside, other=0.0)
    for t in range(first, tl.minimum(first + POSITIONS, length)):
        c = dynamic + row * dynamic_row + t * dynamic_step
        g0, g1, g2, g3 = _weights(b0 + tl.load(c), b1 + tl.load(c + 1), b2 + tl.load(c + 2), b3 + tl.load(c + 3))
        at = row * length + t
        u_x = tl.load(u + at * u_stride + column, mask=inside, other=0.0).to(tl.float32)
        v_x = tl.load(v + at * v_stride + column, mask=inside, other=0.0).to(tl.float32)
        relu, tanh = tl.maximum(u_x, 0.0), 2.0 * tl.sigmoid(2.0 * u_x) - 1.0
        silu, gelu = u_x * tl.sigmoid(u_x), u_x * (0.5 + 0.5 * tl.erf(u_x * 0.7071067811865476))
        mixed = g0 * relu + g1 * tanh + g2 * silu + g3 * gelu
        tl.store(y + at * width + column, mixed * v_x, mask=inside)


@triton.jit
def _backward(
    dy,
    u,
    v,
    static,
    dynamic,
    du,
    dv,
    dstatic,
    ddynamic,
    length,
    width,
    static_row,
    dynamic_row,
    dynamic_step,
    dy_stride,
    u_stride,
    v_stride,
    ONE_GATE: tl.constexpr,
    BLOCK: tl.constexpr,
    POSITIONS: tl.constexpr,
):
    """As forward; stores this program's sums of dlogit: dstatic [B, spans, K, F], ddynamic [B, T, blocks, K]."""
    blocks, spans = tl.cdiv(width, BLOCK), tl.cdiv(length, POSITIONS)
    block = tl.program_id(0) % blocks
    column = block * BLOCK + tl.arange(0, BLOCK)
    inside = column < width
    first = (tl.program_id(0) // blocks % spans) * POSITIONS
    row = (tl.program_id(0) // blocks // spans).to(tl.int64)
    here = static + row * static_row + column
    b0 = tl.load(here, mask=inside, other=0.0)
    b1 = tl.load(here + width, mask=inside, other=0.0)
    b2 = tl.load(here + 2 * width, mask=inside, other=0.0)
    b3 = tl.load(here + 3 * width, mask=inside, other=0.0)
    sum0 = tl.zeros([BLOCK], tl.float32)
    sum1 = tl.zeros([BLOCK], tl.float32)
    sum2 = tl.zeros([BLOCK], tl.float32)
    sum3 = tl.zeros([BLOCK], tl.float32)
    for t in range(first, tl.minimum(first + POSITIONS, length)):
        c = dynamic + row * dynamic_row + t * dynamic_step
        g0, g1, g2, g3 = _weights(b0 + tl.load(c), b1 + tl.load(c + 1), b2 + tl.load(c + 2), b3 + tl.load(c + 3))
        at = row * length + t
        dy_x = tl.load(dy + at * dy_stride + column, mask=inside, other=0.0).to(tl.float32)
        u_x = tl.load(u + at * u_stride + column, mask=inside, other=0.0).to(tl.float32)
        v_x = tl.load(v + at * v_stride + column, mask=inside, other=0.0).to(tl.float32)
        relu, tanh, sigmoid = tl.maximum(u_x, 0.0), 2.0 * tl.sigmoid(2.0 * u_x) - 1.0, tl.sigmoid(u_x)
        cdf = 0.5 + 0.5 * tl.erf(u_x * 0.7071067811865476)
        pdf = 0.3989422804014327 * tl.exp(-0.5 * u_x * u_x)
        silu, gelu = u_x * sigmoid, u_x * cdf
        mixed = g0 * relu + g1 * tanh + g2 * silu + g3 * gelu
        slope = g0 * tl.where(u_x > 0.0, 1.0, 0.0) + g1 * (1.0 - tanh * tanh)
        slope += g2 * (sigmoid + silu * (1.0 - sigmoid)) + g3 * (cdf + u_x * pdf)
        dmixed = dy_x * v_x
        tl.store(du + at * width + column, dmixed * slope, mask=inside)
        tl.store(dv + at * width + column, dy_x * mixed, mask=inside)
        d0, d1 = dmixed * g0 * (relu - mixed), dmixed * g1 * (tanh - mixed)
        d2, d3 = dmixed * g2 * (silu - mixed), dmixed * g3 * (gelu - mixed)
        sum0 += d0
        sum1 += d1
        sum2 += d2
        sum3 += d3
        if not ONE_GATE:
            to = ddynamic + (at * blocks + block) * 4
            tl.store(to, tl.sum(d0))
            tl.store(to + 1, tl.sum(d1))
            tl.store(to + 2, tl.sum(d2))
            tl.store(to + 3, tl.sum(d3))
    to = dstatic + (row * spans + first // POSITIONS) * 4 * width + column
    tl.store(to, sum0, mask=inside)
    tl.store(to + width, sum1, mask=inside)
    tl.store(to + 2 * width, sum2, mask=inside)
    tl.store(to + 3 * width, sum3, mask=inside)


def _steps(static_BKF: Tensor, dynamic_BTK: Tensor) -> tuple[int, int, int]:
    """From row to row of the static part, from row to row and from position to position of the dynamic part."""
    length = dynamic_BTK.shape[1]
    static_row = 0 if len(static_BKF) == 1 else static_BKF.shape[1] * static_BKF.shape[2]
    return static_row, length * len(ACTIVATIONS), 0 if length == 1 else len(ACTIVATIONS)


def _strides(*tensors: Tensor) -> list[int]:
    """From position to position, the last of a row and the first of the next among them."""
    return [rows_of(x).stride for x in tensors]  # pyright: ignore[reportOptionalMemberAccess]


def _programs(u_BTF: Tensor) -> int:
    rows, length, width = u_BTF.shape
    return rows * triton.cdiv(length, POSITIONS) * triton.cdiv(width, BLOCK)


@torch.library.custom_op("athanor::polyglu", mutates_args=())
def _polyglu(u: Tensor, v: Tensor, static_BKF: Tensor, dynamic: Tensor) -> Tensor:
    y = torch.empty(u.shape, dtype=u.dtype, device=u.device)
    sizes = (*u.shape[1:], *_steps(static_BKF, dynamic), *_strides(u, v))
    launch(_forward, _programs(u), u, v, static_BKF, dynamic, y, *sizes, BLOCK=BLOCK, POSITIONS=POSITIONS)
    return y


@_polyglu.register_fake
def _(u: Tensor, v: Tensor, static_BKF: Tensor, dynamic: Tensor) -> Tensor:
    return torch.empty(u.shape, dtype=u.dtype, device=u.device)


@torch.library.custom_op("athanor::polyglu_backward", mutates_args=())
def _polyglu_backward(
    dy: Tensor, u: Tensor, v: Tensor, static_BKF: Tensor, dynamic: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    du, dv = (torch.empty(u.shape, dtype=u.dtype, device=u.device) for _ in range(2))
    rows, length, width = u.shape
    one_gate = dynamic.shape[1] == 1
    kinds, blocks = len(ACTIVATIONS), 0 if one_gate else triton.cdiv(width, BLOCK)
    dstatic_BSKF = static_BKF.new_empty(rows, triton.cdiv(length, POSITIONS), kinds, width)
    ddynamic_BTNK = static_BKF.new_empty(rows, length, blocks, kinds)
    dy = dy if rows_of(dy) else dy.contiguous()
    tensors = (dy, u, v, static_BKF, dynamic, du, dv, dstatic_BSKF, ddynamic_BTNK)
    sizes = (length, width, *_steps(static_BKF, dynamic), *_strides(dy, u, v))
    launch(_backward, _programs(u), *tensors, *sizes, ONE_GATE=one_gate, BLOCK=BLOCK, POSITIONS=POSITIONS)
    dstatic_BKF = dstatic_BSKF.sum(1)
    ddynamic = dstatic_BKF.sum(2)[:, None] if one_gate else ddynamic_BTNK.sum(2)
    return du, dv, dstatic_BKF.sum(0, keepdim=True) if len(static_BKF) == 1 else dstatic_BKF, ddynamic


@_polyglu_backward.register_fake
def _(dy: Tensor, u: Tensor, v: Tensor, static_BKF: Tensor, dynamic: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    du, dv = (torch.empty(u.shape, dtype=u.dtype, device=u.device) for _ in range(2))
    return du, dv, static_BKF.new_empty(static_BKF.shape), dynamic.new_empty(dynamic.shape)


def _keep(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


_polyglu.register_autograd(lambda ctx, dy: _polyglu_backward(dy, *ctx.saved_tensors), setup_context=_keep)


def _refuses(u: Tensor, v: Tensor, static: Tensor, dynamic: Tensor) -> str | None:
    if u.shape != v.shape or u.dtype != v.dtype:
        return "gate and value differ in shape or dtype"
    if rows_of(u) is None or rows_of(v) is None:
        return "the elements of a row do not lie side by side"
    if unfit(u) is None and (static.dtype != torch.float32 or dynamic.dtype != torch.float32):
        return "the logits are not fp32"
    return unfit(u)


def _forward_cost(u: Tensor, v: Tensor, static: Tensor, dynamic: Tensor) -> Cost:
    one, logits = u.numel() * u.element_size(), 4 * (static.numel() + dynamic.numel())
    return Cost(2 * one + logits, one, FORWARD_FLOPS * u.numel())


def _backward_cost(u: Tensor, v: Tensor, static: Tensor, dynamic: Tensor) -> Cost:
    one, logits = u.numel() * u.element_size(), 4 * (static.numel() + dynamic.numel())
    gradients = 4 * static.numel() if dynamic.shape[1] == 1 else logits
    return Cost(3 * one + logits, 2 * one + gradients, BACKWARD_FLOPS * u.numel())


def _example(name: str, rows: int, length: int, width: int) -> Example:
    def make(device: torch.device, dtype: torch.dtype) -> tuple[Tensor, ...]:
        u, v = torch.empty(2, rows, length, width, device=device, dtype=dtype).unbind(0)
        kinds = len(ACTIVATIONS)
        return u, v, torch.empty(rows, width, kinds, device=device), torch.empty(rows, length, kinds, device=device)

    return Example(name, make)


def _compiled(dtype: str) -> tuple[Compiled, ...]:
    logits = {"static": "*fp32", "dynamic": "*fp32"}
    sizes = {"length": "i32", "width": "i32:16", "static_row": "i32:16", "dynamic_row": "i32", "dynamic_step": "i32"}
    strides = {"u_stride": "i32:16", "v_stride": "i32:16"}
    argument = f"*{dtype}"
    forward = {"u": argument, "v": argument, **logits, "y": argument, **sizes, **strides}
    backward = {"dy": argument, "u": argument, "v": argument, **logits, "du": argument, "dv": argument}
    backward |= {"dstatic": "*fp32", "ddynamic": "*fp32", **sizes, "dy_stride": "i32:16", **strides}
    shape = {"BLOCK": BLOCK, "POSITIONS": POSITIONS}
    return (
        Compiled(f"forward {dtype}", _forward, forward, shape),
        Compiled(f"backward {dtype}", _backward, backward, {"ONE_GATE": False, **shape}),
        Compiled(f"backward of one gate {dtype}", _backward, backward, {"ONE_GATE": True, **shape}),
    )


KERNEL = Kernel(
    name="polyglu",
    what="four activations mixed by a router, times the value",
    reference=polyglu_reference,
    refuses=_refuses,
    forward_cost=_forward_cost,
    backward_cost=_backward_cost,
    compiled=(*_compiled("bf16"), *_compiled("fp32")),
    examples=(_example("polychromatic-600m", 16, 4096, 4096),),
)


def polyglu(u_BTF: Tensor, v_BTF: Tensor, static_BFK: Tensor, dynamic_BTK: Tensor) -> Tensor:
    """Mix the four activations of `u` and gate `v`; returns u's shape and dtype.

    `static_BFK` (one row serves all) and `dynamic_BTK` (one position serves the whole row) are fp32 (or fp64)
    logits already divided by tau. Source: PolychromaticLM's published code.
    """
    if not uses_triton(KERNEL, u_BTF, v_BTF, static_BFK, dynamic_BTK):
        return polyglu_reference(u_BTF, v_BTF, static_BFK, dynamic_BTK)
    return _polyglu(u_BTF, v_BTF, static_BFK.transpose(1, 2).contiguous(), dynamic_BTK.contiguous())

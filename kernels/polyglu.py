"""PolyGLU mixing: y = v * sum_k g_k(f) s_k(u), g = softmax_k(static[b, f, k] + dynamic[b, t, k]).

s = (ReLU, tanh, SiLU, exact erf-GELU), in this order, which is part of the checkpoint format. The logits
arrive divided by tau, so they may span hundreds: the softmax subtracts the running maximum over k and
runs in fp32. Neither pass ever holds a [B, T, F, K] tensor: both walk over chunks of T, forward saves only
its arguments, and backward recomputes, with mix = sum_k g_k s_k,

    du = dy v sum_k g_k s_k'(u),   dv = dy mix,   dlogit_k = dy v g_k (s_k - mix).

A dynamic part of length 1 along T (one gate for the whole row) keeps the weights at [B, 1, F].
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from athanor.kernels.chunks import ChunkSize

ACTIVATIONS = ("relu", "tanh", "silu", "gelu")
CHUNKS = ChunkSize(cpu=2**17, cuda=2**24)  # of neurons at some positions


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
    return CHUNKS.slices(length, rows * width, u_BTF.device.type)


def _logit_terms(static_BKF: Tensor, dynamic_BTK: Tensor, chunk: slice) -> tuple[list[Tensor], list[Tensor]]:
    """Per activation: the static term [B or 1, 1, F] and the dynamic term [B, t or 1, 1]."""
    if dynamic_BTK.shape[1] > 1:
        dynamic_BTK = dynamic_BTK[:, chunk]
    return list(static_BKF[:, :, None].unbind(1)), list(dynamic_BTK[..., None].unbind(2))


def polyglu(u_BTF: Tensor, v_BTF: Tensor, static_BFK: Tensor, dynamic_BTK: Tensor) -> Tensor:
    """Mix the four activations of `u` and gate `v`; returns u's shape and dtype.

    `static_BFK` (one row serves all) and `dynamic_BTK` (one position serves the whole row) are fp32 (or fp64)
    logits already divided by tau. Source: PolychromaticLM's published code.
    """
    static_BKF = static_BFK.transpose(1, 2).contiguous()
    return _PolyGLU.apply(u_BTF, v_BTF, static_BKF, dynamic_BTK)  # pyright: ignore[reportReturnType]

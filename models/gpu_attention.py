"""Which attention kernels a GPU would run, for a count on tensors of a processor (models/step_count.py).

A processor's choice is another one: without storage the GPU's kernels can be called all the same. Where the choice
falls on a fused backend (kernels/attention_choice.py), one operation stands for it: forward and backward move queries,
keys, values and outputs once and compute the scores that a row of one document has in its window; blocks that are
computed for a few of their scores, and FlexAttention's list of blocks, are not counted. What is left to torch goes as
torch chooses on CUDA: no mask, equal widths and half precision take FlashAttention; all else takes the memory-efficient
kernel, a mask as a bias in the queries' type, which is made anew for every layer. Grouped heads under a mask come
repeated (kernels/masked_attention.py does it on CUDA).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from athanor.kernels.attention_choice import counted_on_a_gpu
from athanor.kernels.precision import products_dtype
from athanor.kernels.span import Span

aten = torch.ops.aten
_NO_STORAGE = "it stands for a GPU's kernel where tensors have no storage, and computes nothing"


@contextmanager
def attention_of_gpus() -> Iterator[None]:
    """Within, attention is what a GPU would make of it; for tensors without storage alone.

    `F.scaled_dot_product_attention` itself is replaced: a function mode would be off in the backward pass, where blocks
    are recomputed.
    """
    before = F.scaled_dot_product_attention
    F.scaled_dot_product_attention = _attend
    try:
        with counted_on_a_gpu(_fused):
            yield
    finally:
        F.scaled_dot_product_attention = before


def scores_of_a_row(span: Span) -> int:
    """How many a head computes of a row that is one document."""
    queries, window = span.queries, min(span.window or span.queries, span.queries)
    return queries * window - window * (window - 1) // 2 + span.sink * (queries - window)


def _fused(q_BTHd: Tensor, k_BSGd: Tensor, v_BSGe: Tensor, span: Span, cap: float | None) -> Tensor:
    q, k, v = (x.to(products_dtype(q_BTHd)) for x in (q_BTHd, k_BSGd, v_BSGe))
    return _flash_attention(q, k, v, scores_of_a_row(span))[0]


@torch.library.custom_op("athanor::flash_attention", mutates_args=())
def _flash_attention(query: Tensor, key: Tensor, value: Tensor, scores: int) -> tuple[Tensor, Tensor]:
    """Outputs `[B, T, H, e]` and the logarithms of the softmax's sums `[B, T, H]`."""
    raise RuntimeError(_NO_STORAGE)


@_flash_attention.register_fake
def _(query: Tensor, key: Tensor, value: Tensor, scores: int) -> tuple[Tensor, Tensor]:
    heads = query.shape[:-1]
    return query.new_empty(*heads, value.shape[-1]), query.new_empty(heads, dtype=torch.float32)


@torch.library.custom_op("athanor::flash_attention_backward", mutates_args=())
def _flash_attention_backward(
    grad: Tensor, query: Tensor, key: Tensor, value: Tensor, out: Tensor, sums: Tensor, scores: int
) -> tuple[Tensor, Tensor, Tensor]:
    raise RuntimeError(_NO_STORAGE)


@_flash_attention_backward.register_fake
def _(
    grad: Tensor, query: Tensor, key: Tensor, value: Tensor, out: Tensor, sums: Tensor, scores: int
) -> tuple[Tensor, Tensor, Tensor]:
    return torch.empty_like(query), torch.empty_like(key), torch.empty_like(value)


def _keep(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor, int], output: tuple[Tensor, Tensor]) -> None:
    *tensors, ctx.scores = inputs
    ctx.save_for_backward(*tensors, *output)


def _gradients(ctx: Any, grad: Tensor, _sums_grad: Tensor) -> tuple[Tensor | None, ...]:
    return *_flash_attention_backward(grad, *ctx.saved_tensors, ctx.scores), None


_flash_attention.register_autograd(_gradients, setup_context=_keep)


def _attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    if torch.is_autocast_enabled("cpu"):
        query, key, value = (x.to(torch.get_autocast_dtype("cpu")) for x in (query, key, value))
    flash = attn_mask is None and query.shape[-1] == value.shape[-1] and query.dtype != torch.float32
    if flash:
        return aten._scaled_dot_product_flash_attention(query, key, value, 0.0, is_causal, scale=scale)[0]
    if enable_gqa:
        repeats = query.shape[-3] // key.shape[-3]
        key, value = (x.repeat_interleave(repeats, dim=-3) for x in (key, value))
    bias = None
    if attn_mask is not None:
        bias = torch.where(attn_mask, 0.0, -torch.inf).to(query.dtype)
        bias = bias.expand(*query.shape[:-1], key.shape[-2])
    return aten._scaled_dot_product_efficient_attention(
        query, key, value, bias, query.requires_grad, 0.0, is_causal, scale=scale
    )[0]

"""Which of torch's attention kernels a GPU would run, for a count on tensors of a processor (models/step_count.py).

A processor's choice is another one: without storage the GPU's kernels can be called all the same. As torch chooses on
CUDA: no mask, equal widths and half precision take FlashAttention; all else takes the memory-efficient kernel, a mask
as a bias in the queries' type, which is made anew for every layer. Grouped heads under a mask come repeated
(kernels/attention.py does it on CUDA).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor

aten = torch.ops.aten


@contextmanager
def attention_of_gpus() -> Iterator[None]:
    """Within, `F.scaled_dot_product_attention` is what a GPU would make of it; for tensors without storage alone.

    The function itself is replaced: a function mode would be off in the backward pass, where blocks are recomputed.
    """
    before = F.scaled_dot_product_attention
    F.scaled_dot_product_attention = _attend
    try:
        yield
    finally:
        F.scaled_dot_product_attention = before


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

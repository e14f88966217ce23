"""Attention to documents of whole rows, or within a window of them, by flash attention over their lengths.

All rows are one sequence of B T tokens, and a list says where each document begins; no score between two documents is
computed and no mask exists. Forward moves q, k, v and the output once, and the list. CUDA, bf16 and fp16 alone: see
athanor.kernels.attention_choice. Source: FlashAttention-2 (arXiv 2307.08691), torch.nn.attention.varlen.
"""

from __future__ import annotations

from dataclasses import dataclass
from inspect import signature
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention.varlen import varlen_attn

from athanor.kernels.precision import products_dtype
from athanor.kernels.span import Span

# Heads in groups: before torch 2.12 they need no leave.
_GROUPED: dict[str, Any] = {"enable_gqa": True} if "enable_gqa" in signature(varlen_attn).parameters else {}


@dataclass(frozen=True)
class DocumentLengths:
    """Of all rows, one after the other; finding them waits for the device once."""

    bound_N: Tensor  # int32, where documents begin, and behind them the number of tokens
    longest: int

    @classmethod
    def of(cls, span: Span) -> DocumentLengths:
        """Those of whole rows, each as often as it stands in the span."""
        starts_BT = span.doc_start_BT
        begins_BT = starts_BT == torch.arange(span.queries, device=starts_BT.device)
        begin_N = begins_BT.flatten().nonzero()[:, 0]
        bound_N = torch.cat((begin_N, begin_N.new_tensor([starts_BT.numel()])))
        return cls(bound_N.int(), int(bound_N.diff().max()))

    def repeated(self, times: int) -> Tensor:
        """`bound_N` of that many copies."""
        if times == 1:
            return self.bound_N
        tokens, copy_R1 = self.bound_N[-1:], torch.arange(times, device=self.bound_N.device, dtype=torch.int32)[:, None]
        return torch.cat(((self.bound_N[:-1] + copy_R1 * tokens).flatten(), tokens * times))


def varlen_attention(q_BTHd: Tensor, k_BTGd: Tensor, v_BTGd: Tensor, span: Span) -> Tensor:
    """`[B, T, H, d]` in the dtype of the products; causal in each document of whole rows, within `span.window`."""
    lengths, rows = span.once(DocumentLengths.of), q_BTHd.shape[0]
    bound_N = lengths.repeated(rows // len(span.doc_start_BT))
    q, k, v = (x.flatten(0, 1).to(products_dtype(q_BTHd)) for x in (q_BTHd, k_BTGd, v_BTGd))
    mixed = varlen_attn(
        q,
        k,
        v,
        bound_N,
        bound_N,
        lengths.longest,
        lengths.longest,
        window_size=(-1 if span.window is None else span.window - 1, 0),
        **(_GROUPED if q.shape[1] != k.shape[1] else {}),
    )
    assert isinstance(mixed, Tensor)
    return mixed.unflatten(0, (rows, -1))

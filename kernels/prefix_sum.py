"""Running sums that restart at every document: S[t] = x[start[t]] + ... + x[t].

Computed as a difference of cumulative sums in fp64, so that a short document behind a long one loses
nothing to cancellation. Backward is the same sum from the other side, dx[s] = g[s] + ... + g[end[s]],
again two gathers and no scatter, hence deterministic on every device.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def _before(cumulative_BTC: Tensor, index_BT: Tensor) -> Tensor:
    """cumulative[index - 1], and 0 where index is 0."""
    padded = torch.nn.functional.pad(cumulative_BTC, (0, 0, 1, 0))
    return padded.gather(1, index_BT[:, :, None].expand_as(cumulative_BTC))


class _SegmentCumsum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_BTC: Tensor, start_BT: Tensor) -> Tensor:
        ctx.save_for_backward(start_BT)
        ctx.dtype = x_BTC.dtype
        cumulative = x_BTC.cumsum(1, dtype=torch.float64)
        return (cumulative - _before(cumulative, start_BT)).to(torch.promote_types(x_BTC.dtype, torch.float32))

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor, None]:
        (start_BT,) = ctx.saved_tensors
        length = start_BT.shape[1]
        position_T = torch.arange(length, device=start_BT.device)
        # Seen from the right, a document starts at its last token; the nearest document start after t gives it.
        starts = torch.where(start_BT == position_T, position_T, length).flip(1).cummin(1).values
        reversed_start = length - torch.nn.functional.pad(starts[:, :-1], (1, 0), value=length)
        cumulative = grads[0].flip(1).cumsum(1, dtype=torch.float64)
        return (cumulative - _before(cumulative, reversed_start)).flip(1).to(ctx.dtype), None


def segment_cumsum(x_BTC: Tensor, start_BT: Tensor) -> Tensor:
    """fp32 (fp64 of fp64) running sums `[B, T, C]`; `start_BT` int64 is the index of each position's first summand."""
    return _SegmentCumsum.apply(x_BTC, start_BT)  # pyright: ignore[reportReturnType]

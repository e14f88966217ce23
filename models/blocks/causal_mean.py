"""The mean over the document so far, and the running sum that is its past while decoding."""

from __future__ import annotations

import torch
from torch import Tensor

from athanor.kernels.packed_row import PackedRow, newest
from athanor.kernels.prefix_sum import segment_cumsum
from athanor.models.cache import Past
from athanor.models.skeleton import Context


class RunningSum(Past):
    """Sum `[B, C]`, fp32 or fp64, over the newest document of each row."""

    def __init__(self) -> None:
        self.sum_BC: Tensor | None = None

    def unpack(self, packed: PackedRow) -> None:
        """Nothing is left to do: of a packed row, each document's sum is kept."""


def causal_mean(x_BTC: Tensor, context: Context, past: RunningSum | None) -> Tensor:
    """fp32 (fp64 of fp64) mean `[B, T, C]` over the positions of a token's document up to its own."""
    column_T = torch.arange(x_BTC.shape[1], device=x_BTC.device)
    start_BT = (column_T - context.position_BT).expand(x_BTC.shape[:2])  # negative where it began before the piece
    sums_BTC = segment_cumsum(x_BTC, start_BT.clamp(min=0))
    if past is not None:
        if past.sum_BC is not None:
            sums_BTC = sums_BTC + past.sum_BC[:, None] * (start_BT < 0)[:, :, None]
        past.sum_BC = newest(sums_BTC, 1, context.packed)[:, 0]
    return sums_BTC / (context.position_BT + 1)[:, :, None]

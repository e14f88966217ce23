"""From logits to the next id: a temperature, what top-k, top-p and min-p keep, and a seeded draw.

The draw is the maximum of the kept logits plus Gumbel noise, which is a function of (row key, token number)
alone: the same answer on every device, and in every batch that gives the row the same key.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from athanor.core.errors import UserError
from athanor.kernels.noise import gumbel, hash_bits


@dataclass(frozen=True)
class Sampling:
    """How a token is chosen. The filters apply one after the other, each to what the one before it kept."""

    temperature: float = 0.0  # 0 takes the likeliest token
    top_k: int | None = None  # keep the k likeliest
    top_p: float | None = None  # keep the likeliest that together reach this probability
    min_p: float | None = None  # keep what has this share of the likeliest token's probability

    def __post_init__(self) -> None:
        allowed = (
            ("temperature", "a number >= 0", 0 <= self.temperature < math.inf),
            ("top_k", "at least 1, or left out", self.top_k is None or self.top_k >= 1),
            ("top_p", "above 0 and at most 1, or left out", self.top_p is None or 0 < self.top_p <= 1),
            ("min_p", "between 0 and 1, or left out", self.min_p is None or 0 <= self.min_p <= 1),
        )
        for name, rule, holds in allowed:
            if not holds:
                raise UserError(f"{name}={getattr(self, name)}: must be {rule}")

    def next_ids(self, logits_BV: Tensor, key_B: Tensor, token_number: int) -> Tensor:
        """The next id of each row, int64 `[B]`; `key_B` from `row_keys`."""
        if self.temperature == 0.0:
            return logits_BV.argmax(-1)
        kept_BV = self.kept(logits_BV.float() / self.temperature)
        return (kept_BV + gumbel(key_B, token_number, kept_BV.shape[-1])).argmax(-1)

    def kept(self, logits_BV: Tensor) -> Tensor:
        """The logits with -inf for what the filters drop; the likeliest token always stays."""
        if self.top_k is not None:
            least_B1 = logits_BV.topk(min(self.top_k, logits_BV.shape[-1])).values[:, -1:]
            logits_BV = logits_BV.masked_fill(logits_BV < least_B1, -math.inf)
        if self.top_p is not None:
            ordered_BV, index_BV = logits_BV.sort(descending=True)
            probability_BV = ordered_BV.softmax(-1)
            beyond_BV = probability_BV.cumsum(-1) - probability_BV >= self.top_p
            beyond_BV[:, 0] = False
            logits_BV = logits_BV.masked_fill(beyond_BV.gather(1, index_BV.argsort(-1)), -math.inf)
        if self.min_p:
            least_B1 = logits_BV.amax(-1, keepdim=True) + math.log(self.min_p)
            logits_BV = logits_BV.masked_fill(logits_BV < least_B1, -math.inf)
        return logits_BV


GREEDY = Sampling()


def row_keys(seed: int, rows: int, device: torch.device, first_row: int = 0) -> Tensor:
    """Noise keys int64 `[rows]`, one stream for each row from `first_row` on."""
    return hash_bits(torch.tensor([seed], device=device), 0, first_row + rows)[0, first_row:]

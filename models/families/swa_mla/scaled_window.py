"""Window attention whose scores grow with the query's position p in its document.

    score = ln(b + floor(p / w)) / ln(b)  q k^T / sqrt(d)

A rotation table times a factor turns and stretches: that of the queries carries it. Source: SWA-MLA's published code,
after SWAN (arXiv 2504.08719), which scales in use alone.
"""

from __future__ import annotations

import math

from torch import Tensor

from athanor.models.blocks.attention import GroupedQueryAttention


class ScaledWindowAttention(GroupedQueryAttention):
    """`rope` is two tables, `[2, 2, B, T, d/2]`: of the queries and of the keys."""

    def rotated(self, x_BTD: Tensor, rope: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        assert rope is not None
        q_BTHd, k_BTGd, v_BTGd = self.project(x_BTD)
        return self.rotate(q_BTHd, rope[0]), self.rotate(k_BTGd, rope[1]), v_BTGd


def stretched(table: Tensor, position_BT: Tensor, base: float, window: int) -> Tensor:
    """kernels.rope.rope_table's table times the factor of each position within its document."""
    windows_BT = position_BT.div(window, rounding_mode="floor").double()
    factor_BT = (base + windows_BT).log() / math.log(base)  # rounds to 1 in the first window
    return table * factor_BT[:, :, None].to(table.dtype)

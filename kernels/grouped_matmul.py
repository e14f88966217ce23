"""Rows in consecutive groups, each group times its own matrix: y[n] = W[group of n] x[n].

Work and bytes follow the rows that are there, sum_g n_g * E * D multiply-adds; a group without rows costs nothing and
its matrix gets a zero gradient. The group sizes are data, so a caller that counts them on a device waits for it.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

# Matrix products and vectorised exponentials round a row alike, whatever else is in the call, if it holds a multiple
# of this many rows. Callers whose number of rows depends on data pad to it where a later token must change exactly
# nothing in an earlier one.
STABLE_ROWS = 16


def grouped_matmul(x_ND: Tensor, weight_GED: Tensor, sizes_G: list[int]) -> Tensor:
    """`[N, E]` for rows sorted by group, `sizes_G` of them in each group, summing to N."""
    groups = zip(x_ND.split(sizes_G), weight_GED.unbind(0), strict=True)
    return torch.cat([F.linear(x_nD, weight_ED) for x_nD, weight_ED in groups])

"""Rows in consecutive groups, each group times its own matrix: y[n] = W[group of n] x[n].

Work and bytes follow the rows that are there, sum_g n_g * E * D multiply-adds; a group without rows costs nothing and
its matrix gets a zero gradient. The group sizes are data, so a caller that counts them on a device waits for it. How
many rows share a group may change the order in which the products of a row are summed, and so the last bits of the sum.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def grouped_matmul(x_ND: Tensor, weight_GED: Tensor, sizes_G: list[int]) -> Tensor:
    """`[N, E]` for rows sorted by group, `sizes_G` of them in each group, summing to N."""
    groups = zip(x_ND.split(sizes_G), weight_GED.unbind(0), strict=True)
    return torch.cat([F.linear(x_nD, weight_ED) for x_nD, weight_ED in groups])

"""The precision that references compute in, whatever they are given; that of products, which autocast decides."""

from __future__ import annotations

import torch
from torch import Tensor


def at_least_fp32(x: Tensor) -> Tensor:
    """x, in fp32 where it is coarser."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def autocast_dtype(x: Tensor) -> torch.dtype | None:
    """What autocast makes of x before a product; None where it leaves it as it is."""
    kind = x.device.type
    if kind == "meta" or x.dtype == torch.float64 or not torch.is_autocast_enabled(kind):
        return None
    return torch.get_autocast_dtype(kind)


def products_dtype(x: Tensor) -> torch.dtype:
    """That in which products of x are computed."""
    return autocast_dtype(x) or x.dtype

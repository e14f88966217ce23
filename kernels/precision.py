"""The precision that references compute in, whatever they are given."""

from __future__ import annotations

import torch
from torch import Tensor


def at_least_fp32(x: Tensor) -> Tensor:
    """x, in fp32 where it is coarser."""
    return x.to(torch.promote_types(x.dtype, torch.float32))

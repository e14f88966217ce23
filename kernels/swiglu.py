"""SwiGLU (Shazeer 2020): y = silu(u) * v, the gate and the value of a gated feed-forward layer."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def swiglu(u_BTF: Tensor, v_BTF: Tensor) -> Tensor:
    """silu(u) * v, elementwise; same shape and dtype as the arguments."""
    return F.silu(u_BTF) * v_BTF

"""Dynamic tanh in place of a norm (Zhu et al. 2025)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from athanor.kernels.dynamic_tanh import dynamic_tanh
from athanor.models.blocks.norm import Norm


class DynamicTanh(Norm):
    """gain * tanh(alpha x) + bias in place of a norm."""

    def __init__(self, width: int, *, before_products: bool = False):
        super().__init__(before_products=before_products)
        self.alpha = nn.Parameter(torch.full((1,), 0.5))
        self.gain = nn.Parameter(torch.ones(width))
        self.bias = nn.Parameter(torch.zeros(width))

    def normed(self, x: Tensor) -> Tensor:
        return dynamic_tanh(x, self.alpha, self.gain, self.bias).to(self.dtype_asked(x) or x.dtype)

"""Norms with a learned gain, over the last axis."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from athanor.kernels.rms_norm import rms_norm


class RMSNorm(nn.Module):
    """x * gain / sqrt(mean(x^2) + eps); `gain=False` leaves the gain out."""

    def __init__(self, width: int, eps: float, gain: bool = True):
        super().__init__()
        self.gain = nn.Parameter(torch.ones(width)) if gain else None
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return rms_norm(x, self.gain, self.eps)


class LayerNorm(nn.Module):
    """(x - mean(x)) * gain / sqrt(var(x) + 1e-5) + bias, statistics in fp32."""

    def __init__(self, width: int):
        super().__init__()
        self.gain = nn.Parameter(torch.ones(width))
        self.bias = nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor) -> Tensor:
        normed = nn.functional.layer_norm(x.float(), self.gain.shape, self.gain.float(), self.bias.float(), 1e-5)
        return normed.to(x.dtype)

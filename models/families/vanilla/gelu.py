"""Feed-forward layers with GELU in its tanh approximation, which GPT-2 and Gemma were trained with.

    GELU     down(gelu(up x))
    GeGLU    down(gelu(gate x) * up x)

Neither has biases unless asked for.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from athanor.models.blocks.swiglu import SwiGLU


class GeGLU(SwiGLU):
    """SwiGLU with GELU for SiLU (Shazeer 2020); Gemma's."""

    def forward(self, x_BTD: Tensor) -> Tensor:
        return self.down(F.gelu(self.gate(x_BTD), approximate="tanh") * self.up(x_BTD))


class GELU(nn.Module):
    """Two matrices and no gate; GPT-2's."""

    def __init__(self, d_model: int, d_ff: int, bias: bool):
        super().__init__()
        self.up = nn.Linear(d_model, d_ff, bias)
        self.down = nn.Linear(d_ff, d_model, bias)

    def forward(self, x_BTD: Tensor) -> Tensor:
        return self.down(F.gelu(self.up(x_BTD), approximate="tanh"))

    def flops_per_token(self) -> float:
        """Forward matrix-product FLOPs of a token."""
        return 2.0 * (self.up.weight.numel() + self.down.weight.numel())

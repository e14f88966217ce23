"""SwiGLU feed-forward layer: down(silu(gate x) * up x), without biases unless asked for."""

from __future__ import annotations

from torch import Tensor, nn

from athanor.kernels.swiglu import swiglu


class SwiGLU(nn.Module):
    """The controlled baseline's feed-forward layer."""

    def __init__(self, d_model: int, d_ff: int, bias: bool = False):
        super().__init__()
        self.gate = nn.Linear(d_model, d_ff, bias)
        self.up = nn.Linear(d_model, d_ff, bias)
        self.down = nn.Linear(d_ff, d_model, bias)

    def forward(self, x_BTD: Tensor) -> Tensor:
        return self.down(swiglu(self.gate(x_BTD), self.up(x_BTD)))

    def flops_per_token(self) -> float:
        """Forward matrix-product FLOPs of a token."""
        return 2.0 * sum(layer.weight.numel() for layer in (self.gate, self.up, self.down))

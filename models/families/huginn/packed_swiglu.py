"""SwiGLU with gate and value in one matrix, the gate first."""

from __future__ import annotations

from torch import Tensor, nn

from athanor.kernels.swiglu import swiglu


class PackedSwiGLU(nn.Module):
    """One product, as recurrent models publish it: their many iterations would magnify the rounding of two."""

    def __init__(self, d_model: int, d_ff: int, read_width: int | None = None):
        """Reads `read_width` channels (none: d_model), writes d_model."""
        super().__init__()
        self.gate_up = nn.Linear(read_width or d_model, 2 * d_ff, bias=False)
        self.down = nn.Linear(d_ff, d_model, bias=False)

    def forward(self, x_BTD: Tensor) -> Tensor:
        return self.down(swiglu(*self.gate_up(x_BTD).chunk(2, dim=-1)))

    def flops_per_token(self) -> float:
        """Forward matrix-product FLOPs of a token."""
        return 2.0 * (self.gate_up.weight.numel() + self.down.weight.numel())

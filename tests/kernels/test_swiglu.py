"""SwiGLU gates its second argument by the SiLU of its first."""

import torch
from definitions import silu

from athanor.kernels.swiglu import swiglu


def test_the_first_is_the_gate_and_the_second_the_value():
    u, v = torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(0)).double().unbind(0)
    torch.testing.assert_close(swiglu(u, v), silu(u) * v)

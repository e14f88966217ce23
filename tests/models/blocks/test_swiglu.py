"""The feed-forward layer is its formula: `gate` through SiLU, `up` as it is."""

import pytest
import torch
from definitions import Weights, silu

from athanor.models.blocks.swiglu import SwiGLU


@pytest.mark.parametrize("bias", [False, True])
@torch.no_grad()
def test_it_is_its_formula(bias):
    layer, generator = SwiGLU(6, 10, bias).double(), torch.Generator().manual_seed(0)
    for parameter in layer.parameters():
        parameter.normal_(generator=generator)
    x, w = torch.randn(4, 6, generator=generator).double(), Weights(layer)
    torch.testing.assert_close(layer(x), w.linear("down", silu(w.linear("gate", x)) * w.linear("up", x)))

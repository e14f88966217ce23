"""Dynamic tanh is its formula."""

import torch
from definitions import dynamic_tanh as by_definition

from athanor.kernels.dynamic_tanh import dynamic_tanh


def test_it_is_its_formula():
    generator = torch.Generator().manual_seed(0)
    x, alpha, gain, bias = (torch.randn(shape, generator=generator) for shape in ((2, 3, 5), (1,), (5,), (5,)))
    wanted = by_definition(x.double(), alpha.double(), gain.double(), bias.double())
    torch.testing.assert_close(dynamic_tanh(x, alpha, gain, bias).double(), wanted, rtol=1e-6, atol=1e-6)

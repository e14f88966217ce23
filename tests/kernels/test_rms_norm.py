"""Root-mean-square normalisation is its formula, with a gain and without."""

import pytest
import torch
from definitions import rms_norm as by_definition

from athanor.kernels.rms_norm import rms_norm


@pytest.mark.parametrize("eps", [1e-6, 0.5])
def test_it_is_its_formula(eps):
    x, gain = torch.randn(3, 5, 7, generator=torch.Generator().manual_seed(0)).double(), torch.arange(7).double()
    torch.testing.assert_close(rms_norm(x, gain, eps), by_definition(x, gain, eps), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(rms_norm(x, None, eps), by_definition(x, None, eps), rtol=1e-6, atol=1e-6)

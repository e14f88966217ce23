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


def test_statistics_are_fp32_whatever_the_dtype():
    x = (torch.randn(4, 64, generator=torch.Generator().manual_seed(0)) * 300).half()  # squares overflow fp16
    found = rms_norm(x, torch.ones(64).half(), 1e-6)
    assert found.dtype == torch.float16
    torch.testing.assert_close(found.double(), by_definition(x.double(), None, 1e-6), rtol=1e-3, atol=1e-3)

"""Attention under a mask is the softmax over what it marks, also where another mask than that of bounds is given."""

import pytest
import torch
from definitions import attention

from athanor.kernels.masked_attention import masked_attention

LENGTH = 7


@pytest.mark.parametrize("cap", [None, 0.7])
def test_it_is_its_formula_under_any_mask(cap):
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(LENGTH, heads, 6, generator=generator).double() for heads in (4, 2, 2))
    visible = (torch.rand(LENGTH, LENGTH, generator=generator) < 0.5) | torch.eye(LENGTH, dtype=torch.bool)
    found = masked_attention(q[None], k[None], v[None], visible[None, None], cap)
    wanted = attention(q, k, v, lambda i, j: visible[i, j], cap)
    torch.testing.assert_close(found[0].flatten(1), wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("cap", [None, 0.7])
@pytest.mark.parametrize("queries", [1, LENGTH])
def test_without_a_mask_it_is_causal(queries, cap):
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(1, LENGTH, heads, 6, generator=generator) for heads in (4, 2, 2))
    causal = torch.ones(1, 1, LENGTH, LENGTH, dtype=torch.bool).tril()[:, :, -queries:]
    found = masked_attention(q[:, -queries:], k, v, None, cap)
    torch.testing.assert_close(found, masked_attention(q[:, -queries:], k, v, causal, cap))

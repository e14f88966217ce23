"""Norms are their formulas, gains and biases applied after the statistics."""

import pytest
import torch
from definitions import layer_norm, rms_norm

from athanor.models.blocks.norm import LayerNorm, NoNorm, RMSNorm

GENERATOR = torch.Generator().manual_seed(0)
X = torch.randn(2, 3, 6, generator=GENERATOR) * 3 + 1
GAIN, BIAS = torch.randn(2, 6, generator=GENERATOR)


def is_close(found, wanted):
    torch.testing.assert_close(found.double(), wanted, rtol=1e-6, atol=1e-6)


@torch.no_grad()
def test_rms_norm_is_its_formula():
    norm = RMSNorm(6, 0.1)
    norm.gain.copy_(GAIN)
    is_close(norm(X), rms_norm(X.double(), GAIN.double(), 0.1))
    is_close(RMSNorm(6, 0.1, gain=False)(X), rms_norm(X.double(), None, 0.1))


@torch.no_grad()
def test_layer_norm_is_its_formula():
    norm = LayerNorm(6)
    norm.gain.copy_(GAIN)
    norm.bias.copy_(BIAS)
    is_close(norm(X), layer_norm(X.double(), GAIN.double(), BIAS.double()))


@pytest.mark.parametrize("norm", [RMSNorm(6, 0.1), LayerNorm(6), NoNorm()], ids=lambda norm: type(norm).__name__)
def test_with_a_branch_the_sum_comes_back_beside_its_norm(norm):
    branch = BIAS.expand_as(X).bfloat16()
    total, normed = norm(X, branch)
    assert torch.equal(total, X + branch) and torch.equal(normed, norm(X + branch))

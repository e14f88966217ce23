"""Norms are their formulas, gains and biases applied after the statistics; before products they round once for all."""

import pytest
import torch
from definitions import layer_norm, rms_norm

from athanor.kernels.precision import autocast_dtype
from athanor.models.blocks.norm import LayerNorm, NoNorm, RMSNorm
from athanor.models.build import build_model
from athanor.models.families.hydra.block import ExpertLayer
from athanor.models.families.swa_mla.dynamic_tanh import DynamicTanh

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


@pytest.mark.parametrize("norm", [RMSNorm, LayerNorm, DynamicTanh], ids=lambda norm: norm.__name__)
def test_before_products_a_norm_is_what_autocast_makes_of_it_and_the_sum_stays_whole(norm):
    arguments = (6, 0.1) if norm is RMSNorm else (6,)
    plain, before_products = norm(*arguments), norm(*arguments, before_products=True)
    assert torch.equal(before_products(X), plain(X)), "nothing is rounded where autocast is off"
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(before_products(X), plain(X).bfloat16())
        assert autocast_dtype(X.double()) is None, "as products leave it"
        total, normed = before_products(X, GAIN.expand_as(X))
    assert torch.equal(total, X + GAIN) and torch.equal(normed, plain(total).bfloat16())


@torch.no_grad()
def test_under_autocast_a_norm_of_the_stream_is_cast_once_and_not_by_every_product(mode, tiny_recipe):
    model = build_model(tiny_recipe(mode))
    model.init_weights(0)
    seen = []
    for layer in model.modules():
        for branch in ("attention", "ffn"):
            norm = getattr(layer, f"{branch}_norm", None)
            if norm is not None and not isinstance(norm, NoNorm) and not isinstance(layer, ExpertLayer):
                read = getattr(layer, branch)
                read.register_forward_pre_hook(lambda _read, args: seen.append(args[0].dtype))
    with torch.autocast("cpu", torch.bfloat16):
        model.eval().hidden(torch.arange(1, 17)[None])
    assert set(seen) == ({torch.bfloat16} if "post-norm" not in mode else set())

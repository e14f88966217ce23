"""Counts on the meta device equal the published ones; FLOPs equal what torch counts."""

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from athanor.models.build import build_model, build_on_meta
from athanor.models.counts import cache_bytes_per_token, flops_per_token, parameter_counts
from athanor.models.families.hydra.moe import MixtureOfExperts
from athanor.models.family import FAMILIES
from athanor.models.model_recipe import ModelRecipe
from athanor.models.sizes import SIZES

PUBLISHED = dict(
    vocab_size=151_669, d_model=1024, n_layers=28, n_heads=16, n_kv_heads=8, head_dim=64, d_ff=4096, max_seq_len=4096
)
WHOLE_ROWS = {  # where a family sees less of a row, what makes it see all
    "swa_mla": {"swa_mla": {"window": 64}},
    "vanilla gemma2": {"vanilla": {"ffn": "geglu", "attention_cap": 2.0, "logit_cap": 3.0, "branch_norm": True}},
}
VARIANTS = [*FAMILIES, "vanilla gpt2", "vanilla gemma2"]


def test_polychromatic_600m_counts_what_the_published_model_counts():
    assert parameter_counts(ModelRecipe(family="polychromatic", **PUBLISHED)) == {
        "embedding": 155_309_056,
        "attention": 88_080_384,
        "ffn": 352_321_536,
        "routing": 1_380_960,
        "norms": 61_952,
        "total": 597_153_888,
        "active": 597_153_888,
    }


def test_vanilla_of_the_same_shape_is_within_one_percent():
    total = parameter_counts(ModelRecipe(family="vanilla", **PUBLISHED))["total"]
    assert abs(total / 597_153_888 - 1) < 0.01


@pytest.mark.parametrize("family", VARIANTS)
def test_counts_equal_the_built_model(family, tiny_recipe):
    recipe = tiny_recipe(family)
    assert parameter_counts(recipe)["total"] == sum(p.numel() for p in build_model(recipe).parameters())


@pytest.mark.parametrize("family", VARIANTS)
def test_flops_equal_those_torch_counts(family, tiny_recipe):
    rows, length = 2, 32
    recipe = tiny_recipe(family, **WHOLE_ROWS.get(family, {}))
    model = build_model(recipe)
    model.init_weights(0)
    for module in model.modules():
        module.train(not isinstance(module, MixtureOfExperts))  # training compares a few tokens' experts, uncounted
    ids = torch.randint(0, 61, (rows, length))
    with sdpa_kernel(SDPBackend.MATH):  # the counter does not know the CPU's fused attention
        with FlopCounterMode(display=False) as forward:
            model(ids)
        with FlopCounterMode(display=False) as both:
            model.loss(ids, ids).total.backward()
    # torch counts all T keys of a causal query; a row of 2T - 1 has T of them on average.
    wanted = flops_per_token(recipe, 2 * length - 1)
    tokens = rows * length
    assert forward.get_total_flops() / tokens == pytest.approx(wanted.forward, rel=0.001)
    assert both.get_total_flops() / tokens == pytest.approx(wanted.forward + wanted.backward, rel=0.05)


def held_bytes(state):
    """Bytes of all tensors in a cache's states."""
    if isinstance(state, torch.Tensor):
        return state.numel() * state.element_size()
    if isinstance(state, list | tuple):
        return sum(map(held_bytes, state))
    return sum(map(held_bytes, (state if isinstance(state, dict) else getattr(state, "__dict__", {})).values()))


@pytest.mark.parametrize("tokens", [5, 40])
@torch.no_grad()
def test_cache_bytes_equal_those_that_a_bf16_prefill_leaves(mode, tokens, lively_model):
    model = lively_model(mode)
    cache = model.new_cache(1)
    with torch.autocast("cpu", torch.bfloat16):
        model.hidden(torch.arange(1, tokens + 1)[None], cache=cache)
    assert held_bytes(cache.layers) == pytest.approx(tokens * cache_bytes_per_token(model.recipe, tokens), rel=1e-9)


@pytest.mark.filterwarnings("ignore:polychromatic.pool=sequence")
def test_what_cannot_be_cached_has_no_cache_bytes(tiny_recipe):
    assert cache_bytes_per_token(tiny_recipe("polychromatic", polychromatic={"pool": "sequence"}), 9) == 0


@pytest.mark.parametrize("name", SIZES)
def test_every_named_size_counts_on_the_meta_device(name):
    recipe = SIZES[name]
    counts = parameter_counts(recipe)
    total, active = counts.pop("total"), counts.pop("active")
    assert sum(counts.values()) == total >= active > 0
    flops = flops_per_token(recipe, recipe.max_seq_len)
    assert flops.forward > 0 and flops.backward > 0
    assert cache_bytes_per_token(recipe, recipe.max_seq_len) > 0


@pytest.mark.parametrize("family", list(FAMILIES))
def test_a_model_on_the_meta_device_has_the_names_and_shapes_and_no_memory(family, tiny_recipe):
    here, meta = build_model(tiny_recipe(family)), build_on_meta(tiny_recipe(family))
    shapes = {name: tuple(tensor.shape) for name, tensor in here.state_dict().items()}
    assert {name: tuple(tensor.shape) for name, tensor in meta.state_dict().items()} == shapes
    assert all(parameter.is_meta for parameter in meta.parameters())


def test_attention_counts_the_keys_a_causal_query_sees_on_average(tiny_recipe):
    recipe = tiny_recipe("vanilla")
    short, long = flops_per_token(recipe, 9).forward, flops_per_token(recipe, 29).forward
    assert long - short == recipe.n_layers * 4 * recipe.n_heads * recipe.head_dim * 10

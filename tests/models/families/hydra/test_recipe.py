"""HYDRA's sizes, work, initialisation, parameter groups and impossible recipes."""

import math

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from athanor.models.build import build_model
from athanor.models.counts import parameter_counts
from athanor.models.families.hydra.sizes import SIZES
from athanor.models.model_recipe import ModelRecipe


def random_ids(rows, length, seed=0):
    return torch.randint(1, 61, (rows, length), generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("name", "weight"), [("100m", 0.01), ("250m", 0.0144), ("500m", 0.0258), ("1b", 0.0382)])
def test_the_weight_of_the_gates_loss_grows_with_effective_layers_and_width(name, weight):
    with torch.device("meta"):
        model = build_model(SIZES[f"hydra-{name}"])
    found = model._weighted([{"mod": torch.ones(2)}] * 3, torch.tensor([5, 0]))["mod"]
    assert found.item() == pytest.approx(weight, abs=6e-5)


def test_the_sizes_have_their_true_counts():
    totals = {name.removeprefix("hydra-"): parameter_counts(recipe) for name, recipe in SIZES.items()}
    dense = {name: count["total"] for name, count in totals.items() if not name.endswith("-moe")}
    assert dense == {
        "debug": 32_363_464,
        "debug-tall-skinny": 41_769_264,
        "50m": 52_261_664,
        "100m": 93_537_448,
        "diag": 93_543_592,
        "250m": 176_125_372,
        "300m": 247_860_348,
        "500m": 364_115_312,
        "750m": 569_484_012,
        "1b": 842_897_016,
        "1.5b": 1_158_921_476,
    }
    moe = {name: (count["total"], count["active"]) for name, count in totals.items() if name.endswith("-moe")}
    assert moe == {
        "debug-moe": (38_656_457, 35_510_729),
        "50m-moe": (58_554_657, 55_408_929),
        "100m-moe": (119_494_314, 106_518_186),
        "250m-moe": (270_507_454, 199_728_574),
        "300m-moe": (383_238_783, 292_995_711),
        "500m-moe": (647_256_436, 434_919_796),
        "750m-moe": (984_750_832, 673_323_760),
        "1b-moe": (2_560_561_278, 1_057_689_726),
        "1.5b-moe": (3_348_458_762, 1_432_710_410),
    }


def test_attention_has_the_parameters_the_paper_counts():
    recipe = SIZES["hydra-500m"]
    c, ck, d, dh = 320, 80, 1280, 16
    one = 2 * d * c + 2 * d * ck + 3 * (c + ck) + 25 * dh**2 + recipe.n_kv_heads  # the last: temperatures
    assert parameter_counts(recipe)["attention"] == 16 * one


def test_output_matrices_start_smaller_by_all_the_additions_of_all_recursions(tiny_recipe):
    model = build_model(tiny_recipe("hydra", d_model=128, d_ff=256, hydra={**tiny_recipe("hydra").hydra.model_dump()}))
    model.init_weights(0)
    wanted = 0.02 / math.sqrt(2 * 3 * 2)
    for weight in (model.blocks[0].layers[0].ffn.down.weight, model.expert_layers[0].ffn.experts.down):
        assert weight.std().item() == pytest.approx(wanted, rel=0.03)
    assert model.expert_layers[0].ffn.experts.up.std().item() == pytest.approx(0.02, rel=0.03)


def test_recursions_start_alike(tiny_recipe):
    model = build_model(tiny_recipe("hydra"))
    model.init_weights(0)
    assert not any(block.mor.embedding.weight.any() for block in model.blocks)


@pytest.mark.parametrize("kind", ["hydra", "hydra expert_choice", "hydra wide"])
@torch.no_grad()
def test_serving_flops_equal_those_torch_counts_at_capacity(kind, lively_model):
    """Thresholds are put where each row's choice fills whole gathered rows, so that nothing is padded."""
    rows, length = 1, 64
    section = {"capacity": 0.75, "experts": 0, "moe_layers": 0}
    model = lively_model(kind, hydra={**lively_model(kind).recipe.hydra.model_dump(), **section})
    chosen = torch.zeros(rows, length, dtype=torch.bool)
    chosen[:, :48] = True
    for block in model.blocks:
        block.mod.router.reaches = lambda _logit: chosen
        for r, router in enumerate(block.mor.router if kind == "hydra expert_choice" else ()):
            kept = torch.zeros(rows, length, dtype=torch.bool)
            kept[:, : (48, 32, 16)[r]] = True
            router.reaches = lambda _logit, kept=kept: kept
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        model(random_ids(rows, length))
    wanted = model.body_flops_per_token(length) + 2 * model.embedding.weight.numel()
    assert counter.get_total_flops() / length == pytest.approx(wanted, rel=0.001)


def test_work_honours_recursion_capacity_and_experts(tiny_recipe):
    def body(serving=False, **section):
        base = {"recursions": 2, "capacity": 0.5, "experts": 4, "moe_layers": 1}
        with torch.device("meta"):
            model = build_model(tiny_recipe("hydra", hydra={**base, **section}))
        return model.train(not serving).body_flops_per_token(32)

    one_more = body(recursions=3) - body(recursions=2)
    assert body(recursions=4) - body(recursions=3) == pytest.approx(one_more)
    assert body(capacity=0.9) == body(capacity=0.5) > body(serving=True, capacity=0.9) > body(serving=True)
    assert body(routing="static", serving=True) == body(routing="static")
    assert body(experts=8) - body(experts=4) == 2 * 4 * 24
    assert body(experts_per_token=2) - body() == 2 * 3 * 24 * 20


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"experts": 2, "moe_layers": 1, "experts_per_token": 3}, "experts_per_token=3 must not exceed experts=2"),
        ({"moe_layers": 1}, "experts=0 must be at least 2"),
        ({"experts": 2, "moe_layers": 2}, "moe_layers=2 do not fit between the 3 blocks that n_layers=3"),
        ({"routing": "static", "mod_infer": "topk"}, "routing=static skips nothing"),
        ({"mor": "token_choice", "mor_exit": "hard"}, "mor_exit=hard belongs to mor=gaussian"),
        ({"mod_from": 0.3}, "mod_from=0.3 must not be after mod_forced=0.2"),
        ({"mor_from": 0.4}, "mor_from=0.4 must be before mor_full=0.3"),
        ({"capacity": 0.0}, "capacity"),
        ({"experts": 2, "moe_layers": 2, "mor_sharing": "middle_cycle"}, "mor_sharing=middle_cycle make: at most 1"),
    ],
)
def test_an_impossible_recipe_is_refused_in_one_line(tiny_recipe, section, message):
    with pytest.raises(ValueError, match=message) as refused:
        tiny_recipe("hydra", hydra=section)
    assert "\n" not in refused.value.errors()[0]["msg"]


def test_scales_make_groups_of_their_own(tiny_recipe):
    section = {
        "experts": 4,
        "moe_layers": 1,
        "lr_scale": {"expert": 0.5, "router": 2.0, "embedding": 0.1},
        "decay_scale": {"embedding": 0, "recursion": 3},
    }
    model = build_model(tiny_recipe("hydra", hydra=section))
    groups = model.parameter_groups(0.1)
    scales = {id(p): (group["lr_scale"], group["weight_decay"]) for group in groups for p in group["params"]}
    assert len(scales) == len(list(model.parameters()))
    assert scales[id(model.embedding.weight)] == (0.1, 0.0)
    assert scales[id(model.blocks[0].mor.embedding.weight)] == (1.0, pytest.approx(0.3))
    assert scales[id(model.expert_layers[0].ffn.experts.up)] == (0.5, 0.1)
    assert scales[id(model.blocks[0].mod.router.weight)] == (2.0, 0.1)
    assert scales[id(model.blocks[0].layers[0].ffn.up.weight)] == (1.0, 0.1)


def test_a_head_dim_that_is_not_given_is_refused_unless_it_compresses_as_published():
    shape = {"family": "hydra", "vocab_size": 61, "n_layers": 3, "n_heads": 12, "n_kv_heads": 3, "d_ff": 64}
    with pytest.raises(ValueError, match="write head_dim: 16 for a 4th, as published") as refused:
        ModelRecipe.model_validate({**shape, "d_model": 768})
    assert "\n" not in refused.value.errors()[0]["msg"]
    for given in ({"d_model": 768, "head_dim": 64}, {"d_model": 12 * 64 * 4}):
        recipe = ModelRecipe.model_validate({**shape, **given})
        assert ModelRecipe.model_validate(recipe.model_dump()) == recipe

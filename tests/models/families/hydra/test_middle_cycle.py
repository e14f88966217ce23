"""Middle layers that recur together between a first and a last that do not."""

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from athanor.models.build import build_model
from athanor.models.families.hydra.sizes import SIZES

IDS = torch.randint(1, 61, (2, 20), generator=torch.Generator().manual_seed(0))
SECTION = {"recursions": 3, "mor_sharing": "middle_cycle", "capacity": 1, "curriculum": False}


@pytest.fixture
def cyclic(lively_model):
    return lambda **changes: lively_model("hydra", n_layers=5, hydra={**SECTION, **changes})


@torch.no_grad()
def test_middle_layers_run_in_turn_and_as_often_as_the_recursions_say(cyclic):
    model, order = cyclic(), []
    layers = [layer for block in model.blocks for layer in block.layers]
    for number, layer in enumerate(layers):
        layer.register_forward_hook(lambda _m, _args, _out, number=number: order.append(number))
    model(IDS)
    assert order == [0, *[1, 2, 3] * 3, 4]
    assert [block.mor is not None for block in model.blocks] == [False, True, False]
    assert model.effective_layers == 11


@torch.no_grad()
def test_each_middle_layer_reads_the_one_before_it(cyclic):
    model, streams = cyclic(), []
    for layer in model.blocks[1].layers:
        layer.register_forward_hook(lambda _m, args, out: streams.append((args[0], out)))
    model(IDS)
    for at in (0, 1, 3, 4, 6, 7):
        assert torch.equal(streams[at][1], streams[at + 1][0])
    for r in (1, 2):
        entered = streams[3 * r - 1][1] + model.blocks[1].mor.embedding.weight[r]
        assert torch.equal(streams[3 * r][0], entered)


def test_one_router_decides_for_the_cycle(cyclic):
    model = cyclic(capacity=0.75, experts=0, moe_layers=0)
    routers = {name for name, _ in model.named_parameters() if name.endswith("router.weight")}
    gates = {f"blocks.{place}.mod.router.weight" for place in range(3)}
    assert routers == gates | {"blocks.1.mor.router.weight"}


@torch.no_grad()
def test_the_cache_holds_a_slot_for_every_run_of_a_layer(cyclic):
    model = cyclic()
    cache = model.new_cache(2)
    model(IDS, cache=cache)
    lengths = [[[state.keys_values.length for state in states] for states in block] for block in cache.layers]
    assert lengths == [[[20]], [[20] * 3] * 3, [[20]]]
    per_layer = model.blocks[0].cache_values_per_token(20)
    assert model.cache_bytes_per_token(20) == pytest.approx(2 * 11 * per_layer)


@torch.no_grad()
def test_flops_equal_those_torch_counts(cyclic):
    model = cyclic(experts=0, moe_layers=0)
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        model(IDS)
    wanted = model.body_flops_per_token(20) + 2 * model.embedding.weight.numel()
    assert counter.get_total_flops() / IDS.numel() == pytest.approx(wanted, rel=0.001)


def test_the_weight_of_the_gates_loss_counts_the_layers_as_they_run():
    recipe = SIZES["hydra-100m"]
    assert recipe.hydra is not None
    cyclic = recipe.hydra.model_copy(update={"mor_sharing": "middle_cycle"})
    with torch.device("meta"):
        model = build_model(recipe.model_copy(update={"hydra": cyclic}))
    found = model._weighted([{"mod": torch.ones(2)}], torch.tensor([5, 0]))["mod"]
    assert found.item() == pytest.approx(0.01 * (2 + 6 * 4) / 32)


def test_two_layers_have_none_between_them_to_repeat(tiny_recipe):
    with pytest.raises(ValueError, match="n_layers=2 has none") as refused:
        tiny_recipe("hydra middle_cycle", n_layers=2)
    assert "\n" not in refused.value.errors()[0]["msg"]

"""MoD around feed-forward layers alone: which blocks have a gate, what it weighs, what is skipped and counted."""

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from athanor.models.maps import measure

IDS = torch.randint(1, 61, (2, 40), generator=torch.Generator().manual_seed(0))


@pytest.fixture
def gated(lively_model):
    """A model of four blocks, and the stream into and out of its second, in the given mode."""

    def make(training=False, **section):
        fixed = {"mod_scope": "mlp", "recursions": 1, "curriculum": False, "capacity": 0.75}
        model = lively_model("hydra", n_layers=4, hydra={**fixed, **section}).train()
        with torch.no_grad():
            model.loss(IDS, IDS)
            model.after_step(4.0)
        return model.train(training)

    return make


def streams(model, place=1):
    """Into the block, and out of its attention and itself; what it decided."""
    seen, block = {}, model.blocks[place]
    hooks = [
        block.register_forward_hook(lambda _b, args, out: seen.update(x=args[0], y=out[0], routed=out[2])),
        block.layers[0].attention.register_forward_hook(lambda _b, _args, out: seen.update(attended=out)),
    ]
    with torch.no_grad():
        model(IDS)
    for hook in hooks:
        hook.remove()
    return seen


def test_blocks_between_the_first_and_the_last_have_a_gate(gated):
    assert [block.mod is not None for block in gated().blocks] == [False, True, True, False]


@pytest.mark.parametrize("training", [True, False])
@torch.no_grad()
def test_the_gate_weighs_the_feed_forward_layer_and_nothing_else(gated, training):
    model = gated(training)
    seen, block = streams(model), model.blocks[1]
    layer, h = block.layers[0], seen["x"] + seen["attended"]
    gate = block.mod.router(seen["x"]).sigmoid().squeeze(-1)
    if not training:
        computed = seen["routed"].computed_BT
        assert 0.5 < computed.float().mean() < 0.95
        gate = torch.where(computed, gate, 0.0)
    torch.testing.assert_close(seen["y"], h + gate[:, :, None] * layer.ffn(layer.ffn_norm(h)))
    assert (seen["attended"].abs().amax(-1) > 0).all()


@torch.no_grad()
def test_one_decision_holds_for_all_recursions(gated, watched):
    model, fed = gated(recursions=3, mor_exit="hard"), []
    block = model.blocks[1]
    block.layers[0].ffn.register_forward_hook(lambda _m, args, _o: fed.append(args[0].shape[1]))
    seen = watched(model)
    model(IDS)
    routed = seen.blocks[1]
    for r, width in enumerate(fed):
        wanted = int((routed.computed_BT & (routed.depths.depth_BT > r)).sum(1).max())
        assert width == wanted
    assert len(fed) == 3


@torch.no_grad()
def test_serving_flops_equal_those_torch_counts_at_capacity(gated):
    model, rows, length = gated(recursions=2, experts=0, moe_layers=0), 1, 64
    chosen = torch.zeros(rows, length, dtype=torch.bool)
    chosen[:, :48] = True
    for block in model.blocks[1:3]:
        block.mod.router.reaches = lambda _logit: chosen
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        model(torch.ones(rows, length, dtype=torch.long))
    wanted = model.body_flops_per_token(length) + 2 * model.embedding.weight.numel()
    assert counter.get_total_flops() / length == pytest.approx(wanted, rel=0.001)


@torch.no_grad()
def test_maps_count_a_token_without_feed_forward_layer_at_its_depth(gated, watched):
    model = gated(recursions=2)
    seen = watched(model)

    class Given:
        ids_BT, doc_start_BT = IDS.numpy(), torch.zeros_like(IDS).numpy()

    maps = {one.name: one for one in measure(model, model.probes(), [Given()])}
    computed = [1.0, *(routed.computed_BT.float().mean().item() for routed in seen.blocks[1:3]), 1.0]
    assert maps["capacity"].values[0] == pytest.approx(computed)
    assert all(row[0] == 0 for row in maps["depth_histogram"].values)
    assert "feed-forward layer" in maps["capacity"].note


def test_two_blocks_have_nothing_between_them_to_gate(tiny_recipe):
    with pytest.raises(ValueError, match="n_layers=2 has none") as refused:
        tiny_recipe("hydra mlp", n_layers=2)
    assert "\n" not in refused.value.errors()[0]["msg"]
    tiny_recipe("hydra mlp", n_layers=2, hydra={"mod_scope": "mlp", "capacity": 1})

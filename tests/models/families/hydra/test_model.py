"""HYDRA's routers: what they compute, what they learn from, what they skip, and who turns them on."""

import itertools
from statistics import fmean, pvariance

import pytest
import torch

from athanor.core.targets import IGNORE
from athanor.models.build import build_model
from athanor.models.decoding.generate import generate
from athanor.models.families.hydra.token_subset import TokenSubset

KINDS = ("hard exit", "expert_choice", "token_choice", "static", "wide", "mlp", "first keys", "middle_cycle")
ROUTED = ["hydra", *(f"hydra {kind}" for kind in KINDS)]
STARTS = torch.tensor([[0] * 9 + [9] * 7] * 4)


def random_ids(rows, length, seed=0):
    return torch.randint(1, 61, (rows, length), generator=torch.Generator().manual_seed(seed))


def routers(model):
    return {name: p for name, p in model.named_parameters() if "router" in name.split(".")}


@pytest.mark.parametrize("curriculum", [True, False])
@pytest.mark.parametrize("routed", ROUTED)
def test_every_router_learns_from_the_cross_entropy_alone(routed, curriculum, tiny_recipe):
    section = tiny_recipe(routed).hydra.model_dump() | {"curriculum": curriculum}
    model = build_model(tiny_recipe(routed, hydra=section))
    model.init_weights(0)
    model.apply_schedule(model.schedule(1.0))
    ids = random_ids(4, 16)
    model.train().loss(ids, ids.roll(-1, 1), STARTS).total.backward()
    assert len(routers(model)) >= 3
    assert not [name for name, p in routers(model).items() if not p.grad.abs().max() > 0]


def first_positions(model, ids):
    """The positions that the first block's attention is given."""
    seen = []
    hook = model.blocks[0].layers[0].attention.register_forward_pre_hook(lambda _m, args: seen.append(args[1]))
    model(ids)
    hook.remove()
    return seen[0]


def test_training_weighs_every_token_by_the_gate(lively_model, watched):
    model = lively_model(
        "hydra attention alone", hydra={"capacity": 0.75, "recursions": 1, "curriculum": False}
    ).train()
    seen, block = watched(model), model.blocks[0]
    with torch.no_grad():
        model(random_ids(2, 12))
        x, y = seen.streams[0]
        gate = block.mod.router(x).sigmoid()
        whole = block.layers[0](x, first_positions(model, random_ids(2, 12)))
        torch.testing.assert_close(y, gate * whole + (1 - gate) * x)


@torch.no_grad()
def test_skipped_tokens_pass_unchanged_but_still_write_keys_and_values(lively_model, watched, calibrated):
    model = lively_model("hydra")
    ids = random_ids(2, 40)
    calibrated(model, ids)
    seen = watched(model)
    model(ids)
    (x, y), chosen = seen.streams[0], seen.blocks[0].computed_BT
    assert 0.5 < chosen.float().mean() < 0.95
    assert torch.equal(y[~chosen], x[~chosen])
    assert ((y - x)[chosen].abs().amax(-1) > 0).all()
    row, column = (~chosen[:, :-4]).nonzero()[0].tolist()
    changed = x.clone()
    changed[row, column] *= 1.0001  # hardly another stream, and surely the same choice
    positions = first_positions(model, ids)
    layer, subset = model.blocks[0].layers[0], TokenSubset.of(chosen)
    whole, other = (layer(stream, positions, attending=subset, fed=subset) for stream in (x, changed))
    later = (whole - other)[row, column + 4 :]
    assert later.abs().max() > 0


@torch.no_grad()
def test_the_calibrated_threshold_lets_the_capacity_through(lively_model, watched, calibrated):
    model, ids = lively_model("hydra", max_seq_len=256), random_ids(4, 256)
    calibrated(model, ids, steps=40)
    seen = watched(model.train())
    model(ids)
    for routed in seen.blocks:
        assert routed.gate.chosen_BT.float().mean().item() == pytest.approx(0.75, abs=0.02)


def test_routers_learn_from_the_tokens_that_training_keeps(lively_model, calibrated):
    section, ids = lively_model("hydra").recipe.hydra.model_dump(), random_ids(2, 40)
    model = calibrated(lively_model("hydra", hydra={**section, "mod_skip_from": 0.0}), ids).train()
    model.apply_schedule(model.schedule(0.1))
    model.loss(ids, ids.roll(-1, 1)).total.backward()
    assert all(p.grad.abs().max() > 0 for p in routers(model).values())


@torch.no_grad()
def test_training_can_skip_what_serving_skips(lively_model, watched, calibrated):
    section, ids = lively_model("hydra").recipe.hydra.model_dump(), random_ids(2, 40)
    model = calibrated(lively_model("hydra", hydra={**section, "mod_skip_from": 0.5}), ids)
    served, seen = model(ids), watched(model)
    assert (model.train()(ids) - served).abs().max() > 1e-2
    weighed, gaps = model(ids), []
    for progress in (0.5, 0.525, 0.55, 0.575, 0.6):
        model.apply_schedule(model.schedule(progress))
        gaps.append((model(ids) - served).norm().item())
    assert gaps[0] == (weighed - served).norm().item()
    assert all(later < earlier for earlier, later in itertools.pairwise(gaps))
    torch.testing.assert_close(model(ids), served, atol=1e-5, rtol=1e-5)
    assert not seen.blocks[0].computed_BT.all()


@torch.no_grad()
def test_cached_decoding_with_skipped_tokens_equals_the_full_forward(lively_model, calibrated):
    model, ids = lively_model("hydra hard exit"), random_ids(2, 20)
    calibrated(model, ids)
    cache = model.new_cache(2)
    pieces = [model(piece, cache=cache) for piece in ids.split([7, 1, 1, 1, 10], dim=1)]
    torch.testing.assert_close(torch.cat(pieces, dim=1), model(ids), atol=1e-5, rtol=1e-5)
    assert len(cache.layers[0]) == 3


def test_auxiliary_losses_ignore_padding(lively_model):
    model, ids = lively_model("hydra").train(), random_ids(2, 12)
    targets = ids.roll(-1, 1)
    targets[:, 8:] = IGNORE
    starts = torch.tensor([[0] * 8 + [8] * 4] * 2)
    padded = model.loss(ids, targets, starts).aux
    other = ids.clone()
    other[:, 8:] = 3
    changed = model.loss(other, targets, starts).aux
    alone = model.loss(ids[:, :8], targets[:, :8]).aux
    assert set(padded) == {"mod", "ponder", "moe"}
    for name, value in padded.items():
        torch.testing.assert_close(value, changed[name], atol=0, rtol=1e-5)
        torch.testing.assert_close(value, alone[name], atol=0, rtol=1e-5)


@torch.no_grad()
def test_choosing_the_best_of_a_document_leaks_the_future_and_says_so(lively_model, watched):
    section = {"mod_infer": "topk", "recursions": 2, "curriculum": False}
    with pytest.warns(UserWarning, match="topk"):
        model = lively_model("hydra", hydra=section)
    ids, seen = random_ids(1, 20), watched(model)
    model(ids)
    assert [int(routed.computed_BT.sum()) for routed in seen.blocks] == [15] * 3
    changes = []
    for seed in range(1, 6):
        other = ids.clone()
        other[:, 10:] = random_ids(1, 10, seed)
        changes.append((model(ids) - model(other))[:, :10].abs().max().item())
    assert max(changes) > 1e-2
    with pytest.raises(Exception, match="cannot be cached"):
        model.new_cache(1)
    assert len(generate(model, [[3, 5], [7]], max_new_tokens=3, eos_id=-1)[0]) == 3


@torch.no_grad()
def test_expert_choice_thresholds_settle_at_falling_capacities(lively_model, watched, calibrated):
    model, ids = lively_model("hydra expert_choice", max_seq_len=256), random_ids(4, 256)
    seen = watched(calibrated(model, ids, steps=60).train())
    model(ids)
    shares = [(seen.blocks[0].depths.depth_BT > r).float().mean().item() for r in range(3)]
    assert shares == pytest.approx([1.0, 2 / 3, 1 / 3], abs=0.03)


@torch.no_grad()
def test_capacity_and_recursions_change_the_output(tiny_recipe, lively_model, calibrated):
    ids = random_ids(2, 24)
    base = lively_model("hydra").recipe.hydra.model_dump()
    model = calibrated(lively_model("hydra"), ids)
    half = calibrated(lively_model("hydra", hydra={**base, "capacity": 0.5}), ids)
    half.load_state_dict({**model.state_dict(), **{k: v for k, v in half.state_dict().items() if "threshold" in k}})
    assert (half(ids) - model(ids)).abs().max() > 1e-2
    deeper = lively_model("hydra", hydra={**base, "recursions": 3})
    state = {name: value for name, value in model.state_dict().items() if "mor.embedding" not in name}
    deeper.load_state_dict({**deeper.state_dict(), **state})
    assert (deeper(ids) - model(ids)).abs().max() > 1e-2


@torch.no_grad()
@pytest.mark.parametrize("routed", ["hydra", "hydra token_choice", "hydra wide"])
def test_diagnostics_are_what_the_blocks_decided_about_the_counted_tokens(routed, lively_model, watched):
    """Written out with loops, over rows whose padding does not count."""
    model, lengths, ids = lively_model(routed).train(), (16, 9, 2), random_ids(3, 16)
    assert model.diagnostics({}) == {"mod_open": 1.0}
    targets, starts = torch.full_like(ids, IGNORE), torch.zeros_like(ids)
    for row, length in enumerate(lengths):
        targets[row, : length - 1], starts[row, length:] = ids[row, 1:length], length
    seen = watched(model)
    streams = []
    for layer in model.expert_layers:
        layer.ffn.register_forward_pre_hook(lambda _, args: streams.append(args[0]))
    found = model.diagnostics(model.loss(ids, targets, starts).tally.means(lambda totals: totals))
    tokens = [(row, t) for row, length in enumerate(lengths) for t in range(length)]

    def over(values_BT):
        return [float(values_BT[token]) for token in tokens]

    gates = [over(block.gate.logit_BT.double().sigmoid()) for block in seen.blocks]
    passing = [over(block.gate.chosen_BT) for block in seen.blocks]
    depths = [over(block.depths.depth_BT) for block in seen.blocks]
    assert found["mod_passing"] == pytest.approx(fmean(map(fmean, passing)))
    assert found["mod_above_half"] == pytest.approx(fmean(fmean(r > 0.5 for r in gate) for gate in gates))
    assert found["mod_variance"] == pytest.approx(fmean(map(pvariance, gates)))
    assert found["mor_depth"] == pytest.approx(fmean(map(fmean, depths)), rel=1e-6)
    (chosen,) = [[e for token in tokens for e in layer.chosen_BTk[token].tolist()] for layer in seen.experts]
    loads = [chosen.count(expert) / len(chosen) for expert in range(4)]
    assert (found["expert_load_max"], found["expert_load_min"]) == pytest.approx((max(loads), min(loads)))
    experts, (stream,) = model.expert_layers[0].ffn.experts, streams
    made = [[experts.one(e, stream[row, length - 1]) for e in range(4)] for row, length in enumerate(lengths)]
    cosines = [torch.cosine_similarity(a, b, dim=0).item() for ys in made for a, b in itertools.combinations(ys, 2)]
    assert found["expert_divergence"] == pytest.approx(1 - fmean(cosines), rel=1e-5)

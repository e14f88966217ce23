"""HYDRA's routers: what they compute, what they learn from, what they skip, and who turns them on."""

import itertools
import math

import pytest
import torch

from athanor.core.targets import IGNORE
from athanor.models.build import build_model
from athanor.models.decoding.generate import generate
from athanor.models.families.hydra.mod import best_of_documents
from athanor.models.families.hydra.token_subset import TokenSubset
from athanor.models.maps import measure

KINDS = ("hard exit", "expert_choice", "token_choice", "static", "wide", "mlp", "first keys", "middle_cycle")
ROUTED = ["hydra", *(f"hydra {kind}" for kind in KINDS)]
STARTS = torch.tensor([[0] * 9 + [9] * 7] * 4)


def random_ids(rows, length, seed=0):
    return torch.randint(1, 61, (rows, length), generator=torch.Generator().manual_seed(seed))


def routers(model):
    return {name: p for name, p in model.named_parameters() if "router" in name.split(".")}


def calibrated(model, ids, steps=1):
    """Thresholds measured on these rows, as training does."""
    model.train()
    with torch.no_grad():
        for _ in range(steps):
            model.loss(ids, ids.roll(-1, 1))
            model.after_step(4.0)
    return model.eval()


def first_states(model, ids, doc_start=None):
    """Input and output of every block."""
    seen = []
    hooks = [b.register_forward_hook(lambda _b, args, out: seen.append((args[0], out))) for b in model.blocks]
    with torch.no_grad():
        model(ids, doc_start)
    for hook in hooks:
        hook.remove()
    return seen


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


def test_training_weighs_every_token_by_the_gate(lively_model):
    model = lively_model(
        "hydra attention alone", hydra={"capacity": 0.75, "recursions": 1, "curriculum": False}
    ).train()
    (x, y), *_ = first_states(model, random_ids(2, 12))
    block = model.blocks[0]
    with torch.no_grad():
        gate = block.mod.router(x).sigmoid()[:, :, None]
        whole = block.layers[0](x, first_positions(model, random_ids(2, 12)))
        torch.testing.assert_close(y, gate * whole + (1 - gate) * x)


@torch.no_grad()
def test_skipped_tokens_pass_unchanged_but_still_write_keys_and_values(lively_model):
    model = lively_model("hydra")
    ids = random_ids(2, 40)
    calibrated(model, ids)
    (x, y), *_ = first_states(model, ids)
    chosen = model.blocks[0].latest_computed
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
def test_the_calibrated_threshold_lets_the_capacity_through(lively_model):
    model, ids = lively_model("hydra", max_seq_len=256), random_ids(4, 256)
    calibrated(model, ids, steps=40)
    model.train()
    model(ids)
    for block in model.blocks:
        assert block.mod.latest["chosen"].float().mean().item() == pytest.approx(0.75, abs=0.02)


@torch.no_grad()
def test_the_threshold_measured_is_the_same_for_any_micro_batches(lively_model):
    ids = random_ids(4, 32)
    whole, cut = lively_model("hydra").train(), lively_model("hydra").train()
    whole.loss(ids, ids)
    for rows in ids.split([1, 3]):
        cut.loss(rows, rows)
    whole.after_step(4.0)
    cut.after_step(4.0)
    for a, b in zip(whole.blocks, cut.blocks, strict=True):
        torch.testing.assert_close(a.mod.router.threshold, b.mod.router.threshold)
        assert a.mod.router.threshold != 0


@torch.no_grad()
def test_ranks_agree_on_the_mean_of_what_they_measured(lively_model, monkeypatch):
    ids = random_ids(4, 32)
    one, other, rank = (lively_model("hydra").train() for _ in range(3))
    for model, rows in ((one, ids[:3]), (other, ids[3:]), (rank, ids[:3])):
        model.loss(rows, rows)
    elsewhere = torch.stack([block.mod.router.measured() for block in other.blocks])
    one.after_step(4.0)
    monkeypatch.setattr("torch.distributed.is_initialized", lambda: True)
    monkeypatch.setattr("torch.distributed.all_reduce", lambda measured: measured.add_(elsewhere))
    rank.after_step(4.0)
    for a, b, (total, tokens) in zip(one.blocks, rank.blocks, elsewhere, strict=True):
        alone = a.mod.router.threshold
        torch.testing.assert_close(b.mod.router.threshold, 0.75 * alone + 0.25 * total / tokens)
        assert (b.mod.router.threshold - alone).abs() > 1e-4


def test_routers_learn_from_the_tokens_that_training_keeps(lively_model):
    section, ids = lively_model("hydra").recipe.hydra.model_dump(), random_ids(2, 40)
    model = calibrated(lively_model("hydra", hydra={**section, "mod_skip_from": 0.0}), ids).train()
    model.apply_schedule(model.schedule(0.1))
    model.loss(ids, ids.roll(-1, 1)).total.backward()
    assert all(p.grad.abs().max() > 0 for p in routers(model).values())


@torch.no_grad()
def test_training_can_skip_what_serving_skips(lively_model):
    section, ids = lively_model("hydra").recipe.hydra.model_dump(), random_ids(2, 40)
    model = calibrated(lively_model("hydra", hydra={**section, "mod_skip_from": 0.5}), ids)
    served = model(ids)
    assert (model.train()(ids) - served).abs().max() > 1e-2
    weighed, gaps = model(ids), []
    for progress in (0.5, 0.525, 0.55, 0.575, 0.6):
        model.apply_schedule(model.schedule(progress))
        gaps.append((model(ids) - served).norm().item())
    assert gaps[0] == (weighed - served).norm().item()
    assert all(later < earlier for earlier, later in itertools.pairwise(gaps))
    torch.testing.assert_close(model(ids), served, atol=1e-5, rtol=1e-5)
    assert not model.blocks[0].latest_computed.all()


@torch.no_grad()
def test_cached_decoding_with_skipped_tokens_equals_the_full_forward(lively_model):
    model, ids = lively_model("hydra hard exit"), random_ids(2, 20)
    calibrated(model, ids)
    cache = model.new_cache(2)
    pieces = [model(piece, cache=cache) for piece in ids.split([7, 1, 1, 1, 10], dim=1)]
    torch.testing.assert_close(torch.cat(pieces, dim=1), model(ids), atol=1e-5, rtol=1e-5)
    assert len(cache.layers[0]) == 3


def test_targets_of_the_gate_are_the_best_of_each_document():
    score = torch.tensor([[5.0, 1.0, 2.0, 9.0, 9.0, 3.0, 0.0, 4.0, 8.0]])
    starts = torch.tensor([[0, 0, 0, 3, 4, 4, 4, 4, 4]])
    found = best_of_documents(score, starts, 0.5)
    assert found.int().tolist() == [[1, 0, 1, 1, 1, 0, 0, 1, 1]]
    assert best_of_documents(score, None, 0.5).sum() == 5
    assert best_of_documents(torch.zeros(1, 4), None, 0.5).int().tolist() == [[1, 1, 0, 0]]


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
def test_choosing_the_best_of_a_document_leaks_the_future_and_says_so(tiny_recipe, lively_model):
    section = {"mod_infer": "topk", "recursions": 2, "curriculum": False}
    with pytest.warns(UserWarning, match="topk"):
        model = lively_model("hydra", hydra=section)
    ids = random_ids(1, 20)
    model(ids)
    assert [int(block.latest_computed.sum()) for block in model.blocks] == [15] * 3
    changes = []
    for seed in range(1, 6):
        other = ids.clone()
        other[:, 10:] = random_ids(1, 10, seed)
        changes.append((model(ids) - model(other))[:, :10].abs().max().item())
    assert max(changes) > 1e-2
    with pytest.raises(Exception, match="cannot be cached"):
        model.new_cache(1)
    assert len(generate(model, [[3, 5], [7]], max_new_tokens=3, eos_id=-1)[0]) == 3


def test_layers_start_at_depths_from_two_to_four_fifths(tiny_recipe):
    model = build_model(tiny_recipe("hydra", n_layers=5, hydra={"recursions": 4}))
    model.init_weights(0)
    starts = [block.mor.router.bias.sigmoid().item() for block in model.blocks]
    assert starts == pytest.approx([0.4, 0.5, 0.6, 0.7, 0.8])


@torch.no_grad()
def test_gaussian_recursions_mix_the_depths_and_begin_at_the_last(lively_model):
    model = lively_model("hydra", hydra={"capacity": 1, "recursions": 3, "curriculum": False}).train()
    mor, x = model.blocks[0].mor, torch.randn(2, 5, 24)
    everyone = torch.ones(2, 5, dtype=torch.bool)

    def block(h, r, active):
        assert active is None
        return 2.0 * h + r

    depths, h = [], x
    for r in range(3):
        h = block(h + mor.embedding.weight[r], r, None)
        depths.append(h)
    mean = 2 * mor.router(x).sigmoid()
    bell = torch.exp(-((torch.arange(3) - mean) ** 2))
    share = bell / bell.sum(-1, keepdim=True)
    mixed = sum(share[:, :, r, None] * depths[r] for r in range(3))
    for adaptive in (0.0, 0.3, 1.0):
        y, losses = mor(x, block, torch.tensor(adaptive), None, None, everyone)
        torch.testing.assert_close(y, (1 - adaptive) * depths[-1] + adaptive * mixed)
        ponder = (share * torch.arange(1, 4)).sum(-1).mean()
        torch.testing.assert_close(losses["ponder"], adaptive * ponder)


@torch.no_grad()
def test_a_hard_exit_stops_each_token_at_its_most_probable_recursion(lively_model):
    model = lively_model("hydra hard exit")
    mor, x, ran = model.blocks[0].mor, torch.randn(2, 5, 24) * 4, torch.zeros(2, 5)

    def block(h, r, active):
        ran.add_(active.float())
        return h + 1.0

    mor.embedding.weight.zero_()
    y, _ = mor(x, block, torch.tensor(1.0), None, None, torch.ones(2, 5, dtype=torch.bool))
    depth = (2 * mor.router(x).sigmoid()).round().squeeze(-1) + 1
    assert torch.equal(ran, depth)
    assert len(depth.unique()) > 1
    torch.testing.assert_close(y, x + depth[:, :, None])


@torch.no_grad()
def test_expert_choice_narrows_and_scales_by_the_router(lively_model):
    model = lively_model("hydra expert_choice")
    mor, x, seen = model.blocks[0].mor, torch.randn(2, 30, 24), []

    def block(h, r, active):
        seen.append(torch.ones(2, 30, dtype=torch.bool) if active is None else active)
        return 3.0 * h

    y, _ = mor(x, block, torch.tensor(1.0), None, None, torch.ones(2, 30, dtype=torch.bool))
    assert seen[0].all()
    assert (seen[2] <= seen[1]).all() and 0 < seen[2].sum() < seen[1].sum() < 60
    h = x
    for r, active in enumerate(seen):
        gain = 0.1 * mor.router[r](h).sigmoid()[:, :, None]
        h = torch.where(active[:, :, None], h + gain * 3.0 * (h + mor.embedding.weight[r]), h)
    torch.testing.assert_close(y, h)


@torch.no_grad()
def test_expert_choice_thresholds_settle_at_falling_capacities(lively_model):
    model, ids = lively_model("hydra expert_choice", max_seq_len=256), random_ids(4, 256)
    seen = []
    calibrated(model, ids, steps=60).train()
    block = model.blocks[0]
    block.mor.register_forward_hook(lambda mor, _a, _o: seen.append(mor.latest["depth"]))
    model(ids)
    shares = [(seen[0] > r).float().mean().item() for r in range(3)]
    assert shares == pytest.approx([1.0, 2 / 3, 1 / 3], abs=0.03)


@torch.no_grad()
def test_token_choice_takes_the_likeliest_depth_and_weighs_by_its_probability(lively_model):
    model = lively_model("hydra token_choice")
    mor, x = model.blocks[0].mor, torch.randn(2, 9, 24) * 2
    mor.embedding.weight.zero_()
    everyone = torch.ones(2, 9, dtype=torch.bool)
    y, losses = mor(x, lambda h, r, active: h + 1.0, torch.tensor(1.0), None, None, everyone)
    p, picked = mor.router(x).softmax(-1).max(-1)
    assert len(picked.unique()) == 2
    torch.testing.assert_close(y, p[:, :, None] * (x + picked[:, :, None] + 1.0) + x)
    full, _ = mor(x, lambda h, r, active: h + 1.0, torch.tensor(0.0), None, None, everyone)
    torch.testing.assert_close(full, x + 2.0)
    assert set(losses) == {"mor_balance", "mor_z"}


@torch.no_grad()
def test_capacity_and_recursions_change_the_output(tiny_recipe, lively_model):
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


def test_diagnostics_are_finite_before_and_after_a_forward_pass(lively_model):
    model = lively_model("hydra")
    assert all(math.isfinite(value) for value in model.diagnostics().values())
    model(random_ids(2, 8))
    found = model.diagnostics()
    assert {"mod_passing", "mod_variance", "mor_depth", "expert_load_max", "expert_divergence"} <= set(found)
    assert all(math.isfinite(value) for value in found.values())


@torch.no_grad()
def test_maps_show_depths_capacity_and_load_as_they_are(lively_model):
    model, ids = lively_model("hydra hard exit"), random_ids(2, 24)
    calibrated(model, ids)

    class Given:
        ids_BT, doc_start_BT = ids.numpy(), torch.zeros_like(ids).numpy()

    maps = {one.name: one for one in measure(model, model.probes(), [Given()])}
    computed = [block.latest_computed.float().mean().item() for block in model.blocks]
    assert maps["capacity"].values[0] == pytest.approx(computed)
    histogram = torch.tensor(maps["depth_histogram"].values)
    assert histogram.shape == (3, 4)
    torch.testing.assert_close(histogram.sum(1), torch.ones(3))
    torch.testing.assert_close(histogram[:, 0], 1 - torch.tensor(computed))
    assert (histogram @ torch.arange(4.0)).tolist() == pytest.approx(maps["mean_depth"].values[0])
    assert maps["expert_load"].values[0] == pytest.approx(model.expert_layers[0].ffn.load().tolist())

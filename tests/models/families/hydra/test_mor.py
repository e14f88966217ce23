"""Mixture of recursions by itself: how depths are decided, mixed and stopped at."""

import pytest
import torch

from athanor.models.build import build_model


def test_layers_start_at_depths_from_two_to_four_fifths(tiny_recipe):
    model = build_model(tiny_recipe("hydra", n_layers=5, hydra={"recursions": 4}))
    model.init_weights(0)
    starts = [block.mor.router.bias.sigmoid().item() for block in model.blocks]
    assert starts == pytest.approx([0.4, 0.5, 0.6, 0.7, 0.8])


@torch.no_grad()
def test_gaussian_recursions_mix_the_depths_and_begin_at_the_last(lively_model, routing):
    model = lively_model("hydra", hydra={"capacity": 1, "recursions": 3, "curriculum": False}).train()
    mor, x = model.blocks[0].mor, torch.randn(2, 5, 24)

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
        y, losses, went = mor(x, block, routing(x, mor_adaptive=torch.tensor(adaptive)), None)
        torch.testing.assert_close(y, (1 - adaptive) * depths[-1] + adaptive * mixed)
        ponder_B = (share * torch.arange(1, 4)).sum(-1).mean(1)
        torch.testing.assert_close(losses["ponder"], adaptive * ponder_B)
        mean_BT = (1 - adaptive) * 3 + adaptive * (share * torch.arange(1, 4)).sum(-1)
        torch.testing.assert_close(went.depth_BT, mean_BT)


@torch.no_grad()
def test_a_hard_exit_stops_each_token_at_its_most_probable_recursion(lively_model, routing):
    model = lively_model("hydra hard exit")
    mor, x, ran = model.blocks[0].mor, torch.randn(2, 5, 24) * 4, torch.zeros(2, 5)

    def block(h, r, active):
        ran.add_(active.float())
        return h + 1.0

    mor.embedding.weight.zero_()
    y, _, depths = mor(x, block, routing(x), None)
    depth = (2 * mor.router(x).sigmoid()).round().squeeze(-1) + 1
    assert torch.equal(ran, depth) and torch.equal(depths.depth_BT, depth)
    assert len(depth.unique()) > 1
    torch.testing.assert_close(y, x + depth[:, :, None])


@torch.no_grad()
def test_expert_choice_narrows_and_scales_by_the_router(lively_model, routing):
    model = lively_model("hydra expert_choice")
    mor, x, seen = model.blocks[0].mor, torch.randn(2, 30, 24), []

    def block(h, r, active):
        seen.append(torch.ones(2, 30, dtype=torch.bool) if active is None else active)
        return 3.0 * h

    y, _, depths = mor(x, block, routing(x), None)
    assert torch.equal(depths.depth_BT, sum(active.float() for active in seen))
    assert seen[0].all()
    assert (seen[2] <= seen[1]).all() and 0 < seen[2].sum() < seen[1].sum() < 60
    h = x
    for r, active in enumerate(seen):
        gain = 0.1 * mor.router[r](h).sigmoid()
        h = torch.where(active[:, :, None], h + gain * 3.0 * (h + mor.embedding.weight[r]), h)
    torch.testing.assert_close(y, h)


@torch.no_grad()
def test_token_choice_takes_the_likeliest_depth_and_weighs_by_its_probability(lively_model, routing):
    model = lively_model("hydra token_choice")
    mor, x = model.blocks[0].mor, torch.randn(2, 9, 24) * 2
    mor.embedding.weight.zero_()
    y, losses, depths = mor(x, lambda h, r, active: h + 1.0, routing(x), None)
    p, picked = mor.router(x).softmax(-1).max(-1)
    assert len(picked.unique()) == 2
    assert torch.equal(depths.depth_BT, picked + 1.0)
    torch.testing.assert_close(y, p[:, :, None] * (x + picked[:, :, None] + 1.0) + x)
    full, *_ = mor(x, lambda h, r, active: h + 1.0, routing(x, mor_adaptive=torch.tensor(0.0)), None)
    torch.testing.assert_close(full, x + 2.0)
    assert set(losses) == {"mor_balance", "mor_z"}

"""Experts: the grouped result is the definition, no token is lost, work follows the active experts."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from athanor.models.families.hydra.moe import MixtureOfExperts, positions_among


def experts(**changes):
    torch.manual_seed(0)
    layer = MixtureOfExperts(**{**dict(d_model=8, d_ff=6, experts=4, per_token=2, jitter=0.0, static=False), **changes})
    for parameter in layer.parameters():
        torch.nn.init.normal_(parameter)
    return layer


@pytest.fixture
def run_experts(routing):
    def run(layer, x, dense=0.0, stream=0, **told):
        return layer(x, routing(x, moe_dense=torch.tensor(dense), **told), stream)[0]

    return run


@pytest.mark.parametrize("per_token", [1, 2, 4])
@pytest.mark.parametrize("training", [True, False])
def test_grouped_experts_equal_the_definition(per_token, training, run_experts):
    layer, x = experts(per_token=per_token).train(training), torch.randn(3, 7, 8)
    p = layer.router(x).softmax(-1)
    weight, chosen = p.topk(per_token, dim=-1)
    weight = weight / weight.sum(-1, keepdim=True) if per_token > 1 else weight
    every = torch.stack([layer.experts.one(e, x) for e in range(4)], dim=2)
    picked = every.gather(2, chosen[..., None].expand(-1, -1, -1, 8))
    wanted = layer.alpha * (weight[..., None] * picked).sum(2)
    torch.testing.assert_close(run_experts(layer, x), wanted)
    layer.static = True
    torch.testing.assert_close(run_experts(layer, x), wanted)
    torch.testing.assert_close(run_experts(layer, x, dense=1.0), layer.alpha * (p[..., None] * every).sum(2))


def test_no_token_is_dropped_when_all_choose_one_expert(routing):
    layer, x = experts(per_token=1), torch.rand(2, 20, 8)
    with torch.no_grad():
        layer.router.weight[2] = 9.0
    y, _, choices = layer(x, routing(x))
    assert choices.load().tolist() == [0, 0, 1, 0]
    torch.testing.assert_close(y, layer.alpha * layer.router(x).softmax(-1)[..., 2:3] * layer.experts.one(2, x))


def test_work_grows_with_the_active_experts_only(run_experts):
    x = torch.randn(2, 32, 8)

    def flops(**changes):
        with FlopCounterMode(display=False) as counter:
            run_experts(experts(**changes).eval(), x)
        return counter.get_total_flops()

    for count, per_token in ((4, 1), (8, 1), (8, 2)):
        router, one = 2 * 64 * count * 8, 2 * 64 * 3 * 8 * 6
        assert flops(experts=count, per_token=per_token) == router + per_token * one
    assert experts(experts=8).flops_per_token() * 64 == flops(experts=8)


@torch.no_grad()
def test_jitter_acts_in_training_only_and_is_the_same_for_any_micro_batch(run_experts):
    layer, x, keys = experts(jitter=0.5), torch.randn(3, 7, 8), torch.tensor([5, 6, 7])
    quiet = run_experts(layer.eval(), x, row_key_B=keys)
    loud = run_experts(layer.train(), x, row_key_B=keys)
    assert (quiet - loud).abs().max() > 1e-3
    torch.testing.assert_close(run_experts(layer, x[1:2], row_key_B=keys[1:2]), loud[1:2])
    assert (run_experts(layer, x, row_key_B=keys, stream=1) - loud).abs().max() > 1e-3


def test_dense_warm_up_teaches_every_expert(run_experts):
    layer, x = experts(per_token=1), torch.rand(1, 5, 8)
    with torch.no_grad():
        layer.router.weight[2] = 0.5
    run_experts(layer, x, dense=1.0).square().sum().backward()
    assert (layer.experts.down.grad.abs().amax((1, 2)) > 0).all()


@torch.no_grad()
def test_divergence_compares_what_experts_compute_not_how_they_are_written():
    weights, x_ND = experts().experts, torch.randn(64, 8, generator=torch.Generator().manual_seed(1))
    assert weights.divergence(x_ND).mean().item() == pytest.approx(1.0, abs=0.3), "unrelated"
    weights.down.copy_(weights.down[:1].expand_as(weights.down))
    assert weights.divergence(x_ND).mean().item() == pytest.approx(1.0, abs=0.3), "only written alike"
    for e in range(1, 4):
        order = torch.randperm(weights.down.shape[2], generator=torch.Generator().manual_seed(e))
        weights.gate[e], weights.up[e] = weights.gate[0][order], weights.up[0][order]
        weights.down[e] = weights.down[0][:, order]
    assert weights.divergence(x_ND).mean().item() == pytest.approx(0.0, abs=1e-5), "one function, its neurons permuted"


@torch.no_grad()
def test_experts_are_compared_on_every_64th_counted_token_of_a_row_and_its_last():
    weights, x_BTD = experts().experts, torch.randn(5, 150, 8, generator=torch.Generator().manual_seed(1))
    counted_BT = torch.arange(150) % 2 == torch.tensor([[0], [0], [0], [0], [2]])
    for row, counted in enumerate((75, 64, 65, 1, 0)):
        counted_BT[row, 2 * counted :] = False
    found = weights.compared(x_BTD, counted_BT)
    places = [(126, 148), (126,), (126, 128), (0,), ()]
    for row, wanted in enumerate(places):
        assert found.exists_BS[row].tolist() == [i < len(wanted) for i in range(3)]
        for nth, place in enumerate(wanted):
            torch.testing.assert_close(found.divergence_BS[row, nth], weights.divergence(x_BTD[row, place][None])[0])


@pytest.mark.parametrize(
    ("blocks", "after"),
    [(8, [2, 4]), (10, [2, 5]), (14, [2, 4, 7, 9]), (16, [2, 5, 8, 11]), (20, [2, 5, 7, 10, 12, 15]), (2, [0])],
)
def test_expert_layers_stand_at_the_published_places(blocks, after):
    assert positions_among(blocks, len(after)) == after

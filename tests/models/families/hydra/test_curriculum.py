"""Who turns HYDRA's routers on, and when; static routing."""

import pytest
import torch

from athanor.models.build import build_model


def random_ids(rows, length, seed=0):
    return torch.randint(1, 61, (rows, length), generator=torch.Generator().manual_seed(seed))


def train_as_the_trainer_does(model, losses):
    """What the trainer tells the model; yields after every step."""
    for step, loss in enumerate(losses):
        model.after_step(loss)
        model.apply_schedule(model.schedule((step + 1) / len(losses)))
        yield step + 1


def curriculum_model(tiny_recipe, **section):
    model = build_model(tiny_recipe("hydra", hydra={"recursions": 2, "mod_ramp_steps": 5, **section}))
    model.init_weights(0)
    return model.train()


def opened(model):
    return max(model.mod_ramp.item(), model.mod_floor.item())


def test_mod_opens_once_the_mean_loss_is_low_but_not_before_a_tenth(tiny_recipe):
    model = curriculum_model(tiny_recipe)
    history = {step: opened(model) for step in train_as_the_trainer_does(model, [2.0] * 100)}
    assert history[10] == 0.0
    assert [round(history[step], 3) for step in (11, 12, 15, 16)] == [0.2, 0.4, 1.0, 1.0]


def test_mod_is_forced_open_though_the_loss_stays_high(tiny_recipe):
    model = curriculum_model(tiny_recipe, mod_ramp_steps=1000)
    history = {step: opened(model) for step in train_as_the_trainer_does(model, [9.0] * 100)}
    assert history[20] == 0.0
    assert history[25] == pytest.approx(0.5, abs=0.01)
    assert history[30] == history[100] == 1.0


def test_once_forced_mod_needs_no_more_than_its_own_ramp(tiny_recipe):
    model = curriculum_model(tiny_recipe)
    history = {step: opened(model) for step in train_as_the_trainer_does(model, [9.0] * 100)}
    assert (history[20], history[22], history[25]) == pytest.approx((0.0, 0.4, 1.0))


def test_one_low_loss_among_high_ones_does_not_open_mod(tiny_recipe):
    model = curriculum_model(tiny_recipe)
    losses = [9.0] * 100
    losses[14] = 0.1
    history = {step: opened(model) for step in train_as_the_trainer_does(model, losses)}
    assert history[19] == 0.0


def test_recursion_adapts_between_a_fifth_and_three_tenths_and_ponder_follows(tiny_recipe):
    model, ids, ponder = curriculum_model(tiny_recipe), random_ids(2, 8), {}
    for step in train_as_the_trainer_does(model, [9.0] * 20):
        ponder[step] = model.loss(ids, ids).aux["ponder"].item()
    assert model.schedule(0.2)["mor_adaptive"] == 0.0
    assert model.schedule(0.25)["mor_adaptive"] == pytest.approx(0.5)
    assert ponder[4] == 0.0
    assert 0.0 < ponder[5] < ponder[6]
    assert ponder[20] > 0.01 * 1.2


def test_experts_are_dense_at_first(tiny_recipe):
    model = curriculum_model(tiny_recipe, experts=4, moe_layers=1)
    assert [model.schedule(progress)["moe_dense"] for progress in (0.0, 0.049, 0.05, 1.0)] == [1.0, 1.0, 0.0, 0.0]


def test_everything_is_on_for_fine_tuning(tiny_recipe):
    model = curriculum_model(tiny_recipe)
    model.apply_schedule(model.schedule(1.0))
    assert (opened(model), model.mor_adaptive.item(), model.moe_dense.item()) == (1.0, 1.0, 0.0)


@torch.no_grad()
def test_the_curriculum_and_thresholds_are_saved_with_the_weights(tiny_recipe):
    model, ids = curriculum_model(tiny_recipe), random_ids(2, 12)
    for step in train_as_the_trainer_does(model, [2.0] * 100):
        model.loss(ids, ids)
        if step == 13:
            break
    other = curriculum_model(tiny_recipe)
    other.load_state_dict(model.state_dict())
    assert 0 < opened(other) < 1
    for one in (model, other):
        one.loss(ids, ids)
        one.after_step(2.0)
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), other.state_dict().values(), strict=True))
    assert model.blocks[0].mod.router.calibrations > 1


@torch.no_grad()
def test_serving_skips_nothing_until_mod_is_fully_open(tiny_recipe, watched):
    model, ids = curriculum_model(tiny_recipe), random_ids(2, 12)
    seen = watched(model)
    for share, skips in ((0.15, False), (0.25, False), (0.3, True)):
        model.apply_schedule(model.schedule(share))
        model.eval()(ids)
        assert (seen.blocks[0].computed_BT is not None) == skips


@torch.no_grad()
def test_static_routing_serves_what_it_trains_in_one_graph(lively_model):
    model, ids = lively_model("hydra static"), random_ids(2, 16)
    served = model(ids)
    torch.testing.assert_close(model.train()(ids), served)
    graph = torch.compile(model.hidden, backend="eager", fullgraph=True)
    torch.testing.assert_close(graph(ids), model.hidden(ids))

"""PolyGLU routing: noise, temperature, pooling and the diagnostics that tell usage from preference."""

import math

import pytest
import torch

from athanor.models.build import build_model

IDS = torch.randint(1, 61, (3, 12), generator=torch.Generator().manual_seed(0))
KEYS = torch.tensor([11, -4, 2**40])


@pytest.fixture
def model(lively_model):
    return lively_model("polychromatic")


@torch.no_grad()
def test_noise_acts_in_training_only_and_only_with_row_keys(model):
    quiet = model(IDS)
    assert torch.equal(model(IDS, row_key_B=KEYS), quiet)
    model.train()
    assert torch.equal(model(IDS), quiet)
    assert (model(IDS, row_key_B=KEYS) - quiet).abs().max() > 0.1


@torch.no_grad()
def test_a_row_trains_with_the_same_noise_in_any_micro_batch(model):
    model.train()
    together = model(IDS, row_key_B=KEYS)
    for row in range(3):
        alone = model(IDS[row : row + 1], row_key_B=KEYS[row : row + 1])
        torch.testing.assert_close(alone[0], together[row], atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_noise_is_drawn_per_row_neuron_activation_and_layer_and_shared_by_positions(model, monkeypatch):
    seen = []
    for block in model.blocks:
        block.ffn.register_forward_pre_hook(lambda _module, args: seen.append(args[3]))
    model.train()
    model(IDS, row_key_B=KEYS)
    assert [noise.shape for noise in seen] == [(3, model.recipe.d_ff, 4)] * 2
    values = torch.stack(seen)
    assert len(values.unique()) == values.numel()


@torch.no_grad()
def test_noise_does_not_break_causality_in_training(model):
    model.train()
    other = IDS.clone()
    other[:, 8:] = 1
    assert torch.equal(model(IDS, row_key_B=KEYS)[:, :8], model(other, row_key_B=KEYS)[:, :8])


def test_schedule_lowers_tau_linearly_and_is_pure(model):
    assert model.schedule(0.0) == {"tau": 1.0}
    assert model.schedule(0.5)["tau"] == pytest.approx(0.55)
    assert model.schedule(1.0)["tau"] == pytest.approx(0.1)
    assert model.tau.item() == 1.0


@torch.no_grad()
def test_tau_is_saved_with_the_weights_and_evaluation_uses_the_stored_one(model, lively_model):
    model.apply_schedule({"tau": 0.25})
    other = lively_model("polychromatic", seed=1)
    other.load_state_dict(model.state_dict())
    assert other.tau.item() == 0.25
    assert torch.equal(other(IDS), model(IDS))
    other.apply_schedule({"tau": 1.0})
    assert (other(IDS) - model(IDS)).abs().max() > 1e-2


@torch.no_grad()
def test_cold_temperature_and_strong_preferences_stay_finite(model):
    model.apply_schedule({"tau": 0.1})
    for block in model.blocks:
        block.ffn.router.alpha.mul_(4.0)
        block.ffn.router.beta.mul_(8.0)
    assert model.train()(IDS, row_key_B=KEYS).isfinite().all()


@torch.no_grad()
def test_published_pooling_lets_the_future_in_and_says_so(tiny_recipe):
    with pytest.warns(UserWarning, match="whole row"):
        model = build_model(tiny_recipe("polychromatic", polychromatic={"pool": "sequence"}))
    model.init_weights(0)
    for block in model.blocks:
        block.ffn.router.expand.weight.mul_(50.0)
    other = IDS.clone()
    other[:, 8:] = 1
    assert (model(IDS) - model(other))[:, :8].abs().max() > 0
    with pytest.raises(Exception, match="cannot be cached"):
        model.new_cache(1)


@torch.no_grad()
def test_published_pooling_equals_causal_pooling_for_a_single_token(lively_model):
    causal = lively_model("polychromatic")
    with pytest.warns(UserWarning):
        sequence = lively_model("polychromatic", polychromatic={"pool": "sequence"})
    torch.testing.assert_close(causal(IDS[:, :1]), sequence(IDS[:, :1]))


@torch.no_grad()
def test_diagnostics_tell_a_collapsed_context_from_even_preferences(tiny_recipe):
    model = build_model(tiny_recipe("polychromatic")).train()
    model.init_weights(0)
    model.apply_schedule({"tau": 0.1})
    for block in model.blocks:
        block.ffn.router.expand.bias.copy_(torch.tensor([9.0, 0.0, 0.0, 0.0]))
    found = model.diagnostics(model.loss(IDS, IDS).tally.means(lambda totals: totals))
    assert found["alpha_rms"] == 0.0
    assert found["static_entropy"] == pytest.approx(math.log(4))
    assert found["dynamic_entropy"] < 1e-6
    assert found["actual_entropy"] < 1e-6


@torch.no_grad()
def test_the_entropies_are_those_of_the_counted_tokens_and_of_each_rows_last(model):
    """Written out with loops: contexts of the counted tokens, mixtures on the last of them in each row."""
    model.train().apply_schedule({"tau": 0.5})
    lengths, seen = (12, 7, 3), []
    targets, starts = torch.full_like(IDS, -100), torch.zeros_like(IDS)
    for row, length in enumerate(lengths):
        targets[row, : length - 1], starts[row, length:] = IDS[row, 1:length], length
    for block in model.blocks:
        block.ffn.register_forward_hook(
            lambda layer, args, _: seen.append(layer.router.dynamic(args[0], args[2], None))
        )
    found = model.diagnostics(model.loss(IDS, targets, starts, KEYS).tally.means(lambda totals: totals))

    def mean_entropy(logits):
        return torch.distributions.Categorical(logits=torch.stack(logits).double()).entropy().mean().item()

    alphas = [block.ffn.router.alpha for block in model.blocks]
    tokens = [dynamic[row, t] / 0.5 for dynamic in seen for row, length in enumerate(lengths) for t in range(length)]
    mixed = [
        [(alpha + dynamic[row, length - 1]) / 0.5 for row, length in enumerate(lengths)]
        for alpha, dynamic in zip(alphas, seen, strict=True)
    ]
    assert found["static_entropy"] == pytest.approx(mean_entropy(alphas), rel=1e-5)
    assert found["alpha_rms"] == pytest.approx(torch.stack(alphas).square().mean().sqrt().item(), rel=1e-5)
    assert found["dynamic_entropy"] == pytest.approx(mean_entropy(tokens), rel=1e-5)
    assert found["actual_entropy"] == pytest.approx(
        mean_entropy([logits for of_layer in mixed for logits in of_layer]), rel=1e-5
    )
    shares = [torch.stack(of_layer).softmax(-1).mean((0, 1)).min().item() for of_layer in mixed]
    assert found["activation_share_min"] == pytest.approx(min(shares), rel=1e-5)


@torch.no_grad()
def test_a_row_pooled_whole_counts_if_any_token_of_it_does(lively_model):
    with pytest.warns(UserWarning):
        model = lively_model("polychromatic", polychromatic={"pool": "sequence"}).train()
    targets = IDS.roll(-1, 1)
    targets[2] = -100

    def diagnostics(rows):
        tally = model.loss(IDS[:rows], targets[:rows], row_key_B=KEYS[:rows]).tally
        return model.diagnostics(tally.means(lambda totals: totals))

    assert diagnostics(3) == pytest.approx(diagnostics(2), rel=1e-6)

"""Which activations neurons use: shares, and three entropies that tell preference, context and use apart."""

import math
from types import SimpleNamespace

import numpy as np
import torch

ACTIVATIONS = ["relu", "tanh", "silu", "gelu"]


def batches(count=2, rows=2, length=10):
    generator = np.random.default_rng(0)
    start = np.repeat([[0] * 6 + [6] * (length - 6)], rows, axis=0)
    rows_of_ids = [generator.integers(1, 61, (rows, length)) for _ in range(count)]
    return [SimpleNamespace(ids_BT=ids, targets_BT=np.roll(ids, -1, 1), doc_start_BT=start) for ids in rows_of_ids]


def found(model, given=None):
    return {one.name: one for one in model.maps(batches() if given is None else given)}


def test_one_draw_of_text_gives_the_same_maps_in_any_batches(lively_model):
    model, given = lively_model("polychromatic"), batches()
    merged = [
        SimpleNamespace(**{k: np.concatenate([getattr(b, k) for b in given]) for k in ("ids_BT", "doc_start_BT")})
    ]
    together, apart = found(model, merged), found(model, given)
    for name in apart:
        np.testing.assert_allclose(together[name].values, apart[name].values, atol=1e-5)


def test_shares_sum_to_one_and_neurons_average_to_their_layer(lively_model):
    maps = found(lively_model("polychromatic"))
    layers = np.array(maps["neurotransmitters"].values)
    np.testing.assert_allclose(layers.sum(1), 1.0, atol=1e-5)
    for k, name in enumerate(ACTIVATIONS):
        neurons = np.array(maps[f"neurons_{name}"].values)
        np.testing.assert_allclose(neurons.mean(1), layers[:, k], atol=1e-5)
        assert (np.diff(neurons, axis=1) <= 0).all()


def test_many_neurons_are_thinned_with_both_ends_kept(lively_model):
    maps = found(lively_model("polychromatic", d_ff=1000))
    for name in ACTIVATIONS:
        assert len(maps[f"neurons_{name}"].values[0]) == 128


@torch.no_grad()
def test_entropies_tell_preference_context_and_use_apart(lively_model):
    model = lively_model("polychromatic")
    model.apply_schedule({"tau": 0.1})
    for block in model.blocks:  # even preferences, a context that always chooses tanh
        block.ffn.router.alpha.zero_()
        block.ffn.router.beta.fill_(1.0)
        block.ffn.router.expand.weight.zero_()
        block.ffn.router.expand.bias.copy_(torch.tensor([0.0, 9.0, 0.0, 0.0]))
    maps = found(model)
    static, dynamic, actual, even = np.array(maps["routing_entropy"].values)
    np.testing.assert_allclose(static, math.log(4), atol=1e-6)
    np.testing.assert_allclose(even, math.log(4), atol=1e-6)
    assert (dynamic < 1e-6).all()
    assert (actual < 1e-6).all()
    np.testing.assert_allclose(np.array(maps["neurotransmitters"].values)[:, 1], 1.0, atol=1e-6)
    # Neurons that split between two activations of their own: the context still chooses one, usage does not.
    for block in model.blocks:
        block.ffn.router.alpha[:, 0] = 9.0
    static, dynamic, actual, _ = np.array(found(model)["routing_entropy"].values)
    assert (static < 0.1).all()
    assert (dynamic < 1e-6).all()
    np.testing.assert_allclose(actual, math.log(2), atol=1e-4)


def test_notes_say_tau_and_the_tokens_measured(lively_model):
    model = lively_model("polychromatic")
    model.apply_schedule({"tau": 0.25})
    note = found(model)["routing_entropy"].note
    assert "tau = 0.25" in note
    assert "40 tokens" in note

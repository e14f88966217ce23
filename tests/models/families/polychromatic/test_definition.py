"""PolychromaticLM is its definition, written out: gates by document and by row, at every temperature, with noise and
without, in float64."""

import pytest
import torch
from definitions import (
    IDS,
    STARTS,
    Weights,
    attention,
    compared,
    gelu_erf,
    gumbel,
    in_document,
    positions_of,
    relu,
    rms_norm,
    rope,
    silu,
    softmax,
)

ACTIVATIONS = (relu, torch.tanh, silu, gelu_erf)
KEY = 77


def logits_by_definition(model, tau, key=None, w=None):
    recipe, section, w = model.recipe, model.section, w or Weights(model)
    length = len(IDS)

    def attended(name, x):
        q, k, v = (
            w.linear(f"{name}.{part}", x).view(length, -1, recipe.head_dim) for part in ("query", "key", "value")
        )
        q = rms_norm(q, w[f"{name}.query_norm.gain"], recipe.norm_eps)
        k = rms_norm(k, w[f"{name}.key_norm.gain"], recipe.norm_eps)
        q, k = (rope(y, positions_of(STARTS), recipe.rope_base, "half-split") for y in (q, k))
        return w.linear(f"{name}.out", attention(q, k, v, in_document(STARTS)))

    def polyglu(name, x, noise):
        mixed = []
        u, v = w.linear(f"{name}.gate", x), w.linear(f"{name}.up", x)
        for t in range(length):
            read = x if section.pool == "sequence" else x[STARTS[t] : t + 1]
            pooled = read.sum(0) / len(read)
            c = w.linear(f"{name}.router.expand", relu(w.linear(f"{name}.router.reduce", pooled)))
            neurons = []
            for i in range(recipe.d_ff):
                z = w[f"{name}.router.alpha"][i] + w[f"{name}.router.beta"] * c + noise[i]
                g = softmax(z / tau)
                neurons.append(sum(g[k] * s(u[t, i]) for k, s in enumerate(ACTIVATIONS)) * v[t, i])
            mixed.append(torch.stack(neurons))
        return w.linear(f"{name}.down", torch.stack(mixed))

    x = w["embedding.weight"][IDS]
    for layer in range(recipe.n_layers):
        at, noise = f"blocks.{layer}", torch.zeros(recipe.d_ff, 4)
        if key is not None:  # one draw for a neuron and an activation, shared by all positions of the row
            noise = torch.tensor(gumbel(key, layer, recipe.d_ff * 4), dtype=torch.float64).view(recipe.d_ff, 4)
        x = x + attended(f"{at}.attention", rms_norm(x, w[f"{at}.attention_norm.gain"], recipe.norm_eps))
        x = x + polyglu(f"{at}.ffn", rms_norm(x, w[f"{at}.ffn_norm.gain"], recipe.norm_eps), noise)
    return rms_norm(x, w["final_norm.gain"], recipe.norm_eps) @ w["embedding.weight"].T


@pytest.fixture
def made(lively_model):
    def make(pool, tau):
        model = lively_model("polychromatic", polychromatic={"pool": pool, "gate_width": 5}).double()
        model.apply_schedule({"tau": tau})
        return model

    return make


pools = pytest.mark.parametrize("pool", ["causal", "sequence"])


@pools
@pytest.mark.parametrize("tau", [1.0, 0.25])
@pytest.mark.filterwarnings("ignore:polychromatic.pool=sequence")
def test_logits_are_the_definitions(made, pool, tau):
    compared(made(pool, tau), logits_by_definition, tau)


@pools
@pytest.mark.filterwarnings("ignore:polychromatic.pool=sequence")
def test_training_adds_gumbel_noise_of_the_row_before_it_divides_by_the_temperature(made, pool):
    compared(made(pool, 0.5).train(), logits_by_definition, 0.5, KEY, row_key=KEY)


@pools
@pytest.mark.filterwarnings("ignore:polychromatic.pool=sequence")
def test_evaluation_adds_no_noise_though_the_row_has_a_key(made, pool):
    compared(made(pool, 0.5), logits_by_definition, 0.5, row_key=KEY)


@pytest.mark.filterwarnings("ignore:polychromatic.pool=sequence")
@pools
def test_gradients_are_the_definitions(made, pool):
    model = made(pool, 0.5).train()
    w = Weights(model, grad=True)
    direction = torch.randn(len(IDS), model.recipe.vocab_size, generator=torch.Generator().manual_seed(1)).double()
    (model(torch.tensor([IDS]), torch.tensor([STARTS]), torch.tensor([KEY]))[0] * direction).sum().backward()
    (logits_by_definition(model, 0.5, KEY, w) * direction).sum().backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, w[name].grad, rtol=1e-4, atol=1e-4, msg=name)


def test_the_temperature_falls_linearly_from_its_start_to_its_end(made):
    model = made("causal", 1.0)
    found = [model.schedule(progress)["tau"] for progress in (0.0, 0.25, 0.5, 1.0)]
    assert found == pytest.approx([1.0, 0.775, 0.55, 0.1])

"""Plain decoders are their definition, written out: Llama's blocks with norms on queries and keys, GPT-2, Gemma 2."""

import math

import pytest
import torch
from definitions import (
    IDS,
    STARTS,
    Weights,
    attention,
    capped,
    compared,
    cross_entropy,
    gelu_tanh,
    in_document,
    in_window,
    layer_norm,
    positions_of,
    rms_norm,
    rope,
    silu,
)

TARGETS = [17, 3, -100, 5, 22, 41, -100, -100, 5, 33, 58, -100]


def logits_by_definition(model, w=None):
    recipe, section, w = model.recipe, model.section, w or Weights(model)

    def norm(name, x):
        if section.norm == "layernorm":
            return layer_norm(x, w[f"{name}.gain"], w[f"{name}.bias"])
        return rms_norm(x, w[f"{name}.gain"], recipe.norm_eps)

    def branch(name, x):
        return norm(name, x) if section.branch_norm else x

    def attended(name, x, sees):
        q, k, v = (
            w.linear(f"{name}.{part}", x).view(len(IDS), -1, recipe.head_dim) for part in ("query", "key", "value")
        )
        if section.qk_norm:
            q = rms_norm(q, w[f"{name}.query_norm.gain"], recipe.norm_eps)
            k = rms_norm(k, w[f"{name}.key_norm.gain"], recipe.norm_eps)
        if section.positions == "rope":
            q, k = (rope(y, positions_of(STARTS), recipe.rope_base, "half-split") for y in (q, k))
        return w.linear(f"{name}.out", attention(q, k, v, sees, section.attention_cap))

    def ffn(name, x):
        up = w.linear(f"{name}.up", x)
        if section.ffn == "gelu":
            return w.linear(f"{name}.down", gelu_tanh(up))
        activation = silu if section.ffn == "swiglu" else gelu_tanh
        return w.linear(f"{name}.down", activation(w.linear(f"{name}.gate", x)) * up)

    x = w["embedding.weight"][IDS]
    if section.scale_embedding:
        x = x * math.sqrt(recipe.d_model)
    if section.positions == "learned":
        x = x + w["position_embedding.weight"][positions_of(STARTS)]
    for layer in range(recipe.n_layers):
        near = section.window is not None and layer % 2 == 0
        sees = in_window(STARTS, section.window) if near else in_document(STARTS)
        at = f"blocks.{layer}"
        added = attended(f"{at}.attention", norm(f"{at}.attention_norm", x), sees)
        x = x + branch(f"{at}.attention_branch_norm", added)
        x = x + branch(f"{at}.ffn_branch_norm", ffn(f"{at}.ffn", norm(f"{at}.ffn_norm", x)))
    head = w["embedding.weight" if section.tied else "head.weight"]
    return capped(norm("final_norm", x) @ head.T, section.logit_cap)


def test_logits_are_the_definitions(lively_model, own_mode):
    compared(lively_model(own_mode).double(), logits_by_definition)


@pytest.mark.parametrize("changes", [{"rope_base": 50.0}, {"n_kv_heads": 1}, {"norm_eps": 0.3}], ids=str)
def test_fields_of_the_shape_are_the_definitions(lively_model, changes):
    compared(lively_model("vanilla", **changes).double(), logits_by_definition)


def test_loss_and_its_gradient_are_the_definitions(lively_model, own_mode):
    model = lively_model(own_mode).double().train()
    w = Weights(model, grad=True)
    found = model.loss(torch.tensor([IDS]), torch.tensor([TARGETS]), torch.tensor([STARTS]))
    wanted = cross_entropy(logits_by_definition(model, w), TARGETS)
    assert int(found.tokens) == 8
    torch.testing.assert_close(found.total, wanted, rtol=1e-5, atol=1e-5)
    found.total.backward()
    wanted.backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, w[name].grad, rtol=1e-4, atol=1e-4, msg=name)

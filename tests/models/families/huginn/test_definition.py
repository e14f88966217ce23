"""Huginn is its definition, written out: prelude, iterated core, coda, and which iterations carry gradient."""

import math

import pytest
import torch
from definitions import (
    IDS,
    STARTS,
    Weights,
    attention,
    compared,
    in_document,
    key_at,
    positions_of,
    rms_norm,
    rope,
    silu,
    truncated_normal,
    uniform,
)

from athanor.models.families.huginn.recurrence import draw_recurrence


def noise_share(section, t, std):
    """Of the noise in iteration t = 1, 2, ..; as large as the first states' at `test_time_noise` = 1."""
    n = section.test_time_noise * std
    match section.test_time_noise_type:
        case "geom":
            return n / t
        case "sqrt":
            return n / math.sqrt(t)
        case "line":
            return max(n, (section.mean_recurrence - (t - 1)) / section.mean_recurrence)
        case "chi":
            return 2 * uniform(0, 1024 + t - 1, 1)[0] * n
    return n


def logits_by_definition(model, without_grad, with_grad=0, key=None, w=None):
    recipe, section, w = model.recipe, model.section, w or Weights(model)
    length, positions, width = len(IDS), positions_of(STARTS), model.recipe.d_model
    scale = math.sqrt(width) if section.init == "takase" else 1.0

    def norm(name, x):
        return rms_norm(x, w[f"{name}.gain"] if section.norm_gain else None, recipe.norm_eps)

    def attended(name, x):
        q_width, k_width = recipe.n_heads * recipe.head_dim, recipe.n_kv_heads * recipe.head_dim
        joined = w.linear(f"{name}.query_key_value", x)
        q, k, v = joined[:, :q_width], joined[:, q_width : q_width + k_width], joined[:, q_width + k_width :]
        if section.qk_bias:
            q, k = q + w[f"{name}.query_bias"], k + w[f"{name}.key_bias"]
        q, k, v = (y.view(length, -1, recipe.head_dim) for y in (q, k, v.contiguous()))
        q, k = (rope(y, positions, recipe.rope_base, "interleaved") for y in (q, k))
        return w.linear(f"{name}.out", attention(q, k, v, in_document(STARTS)))

    def ffn(name, x):
        joined = w.linear(f"{name}.gate_up", x)
        return w.linear(f"{name}.down", silu(joined[:, : recipe.d_ff]) * joined[:, recipe.d_ff :])

    def injected(s, e):
        match section.injection:
            case "linear":
                return torch.cat((s, e), dim=1) @ w["core.adapter.weight"].T
            case "ffn":
                return ffn("core.adapter", torch.cat((s, e), dim=1))
            case "add":
                return s + e
            case "gate":
                return s * e
            case "none":
                return s

    def block(at, x):
        if section.block == "pre-norm":
            x = x + attended(f"{at}.attention", norm(f"{at}.attention_norm", x))
            return x + ffn(f"{at}.ffn", norm(f"{at}.ffn_norm", x))
        if section.block == "post-norm":
            x = norm(f"{at}.attention_sum_norm", x + attended(f"{at}.attention", x))
            return norm(f"{at}.ffn_sum_norm", x + ffn(f"{at}.ffn", x))
        x = norm(f"{at}.attention_sum_norm", x + attended(f"{at}.attention", norm(f"{at}.attention_norm", x)))
        return norm(f"{at}.ffn_sum_norm", x + ffn(f"{at}.ffn", norm(f"{at}.ffn_norm", x)))

    e = w["embedding.weight"][IDS] * scale
    for layer in range(section.prelude_layers):
        e = block(f"prelude.{layer}", e)
    std = math.sqrt(2 / (5 * width)) * scale
    # Outside training one noise for all documents; in training each its own, which its place in the row gives it.
    keys = [key_at(0, position) for position in positions] if key is None else [key_at(key, i) for i in range(length)]
    noise = [truncated_normal(one, 0, width, cut=3.0) for one in keys]
    s = e if section.injection == "none" else std * torch.tensor(noise, dtype=torch.float64)
    for iteration in range(without_grad + with_grad):
        if 0 < iteration == without_grad:
            s = s.detach()
        if section.test_time_noise and not model.training:
            a = noise_share(section, iteration + 1, std)
            z = [truncated_normal(key_at(0, position), 1024 + iteration, width, cut=math.inf) for position in positions]
            last = recipe.n_layers - section.prelude_layers - section.coda_layers - 1
            s = s * (1 - a) + a * torch.tensor(z, dtype=torch.float64)
            s = s if section.block == "pre-norm" else norm(f"core.blocks.{last}.ffn_sum_norm", s)
        x = injected(s, e)
        for layer in range(recipe.n_layers - section.prelude_layers - section.coda_layers):
            x = block(f"core.blocks.{layer}", x)
        s = x
    x = norm("final_norm", s)
    for layer in range(section.coda_layers):
        x = block(f"coda.{layer}", x)
    return norm("final_norm", x) @ w["embedding.weight" if section.tied else "head.weight"].T


def test_logits_are_the_definitions(lively_model, own_mode):
    """Outside training: from one noise for all rows, as often as the mean of training."""
    model = lively_model(own_mode).double()
    compared(model, logits_by_definition, model.section.mean_recurrence, row_key=5)


def test_layers_of_every_part_are_in_their_order(lively_model):
    section = {"prelude_layers": 2, "coda_layers": 2, "mean_recurrence": 2, "backprop_depth": 1}
    compared(lively_model("huginn", n_layers=6, huginn=section).double(), logits_by_definition, 2)


def test_evaluation_iterates_as_often_as_the_recipe_says(lively_model):
    section = {"prelude_layers": 1, "coda_layers": 1, "mean_recurrence": 2, "backprop_depth": 1, "eval_recurrence": 4}
    compared(lively_model("huginn", huginn=section, n_layers=4).double(), logits_by_definition, 4)


@pytest.mark.parametrize(("without_grad", "with_grad"), [(2, 1), (0, 3), (1, 2)])
def test_gradient_goes_through_the_last_iterations_alone(lively_model, own_mode, without_grad, with_grad):
    model = lively_model(own_mode).double().train()
    w = Weights(model, grad=True)
    direction = torch.randn(len(IDS), model.recipe.vocab_size, generator=torch.Generator().manual_seed(1)).double()
    with model.recurring(without_grad, with_grad):
        found = model(torch.tensor([IDS]), torch.tensor([STARTS]), torch.tensor([5]))[0]
    wanted = logits_by_definition(model, without_grad, with_grad, key=5, w=w)
    torch.testing.assert_close(found, wanted, rtol=2e-5, atol=2e-5)
    (found * direction).sum().backward()
    (wanted * direction).sum().backward()
    untaught = [name for name, parameter in model.named_parameters() if w[name].grad is None]
    assert all(name.startswith("prelude") for name in untaught)  # which the core saw in an iteration without gradient
    assert not untaught or model.section.injection == "none"
    for name, parameter in model.named_parameters():
        if name in untaught:
            assert parameter.grad is None
            continue
        largest = float(w[name].grad.abs().max())
        torch.testing.assert_close(parameter.grad, w[name].grad, rtol=1e-4, atol=1e-5 * largest, msg=name)


def test_a_training_step_iterates_as_often_as_its_key_drew(lively_model):
    model = lively_model("huginn").double().train()
    model.begin_step(123)
    (drawn,) = model.drawn
    compared(model, logits_by_definition, drawn.without_grad, drawn.with_grad, 5, row_key=5)


@pytest.mark.parametrize("kind", [None, "fixed", "geom", "sqrt", "line", "chi"])
@pytest.mark.parametrize("block", ["sandwich", "pre-norm"])
def test_noise_outside_training_is_the_definitions(lively_model, kind, block):
    section = {"prelude_layers": 1, "coda_layers": 1, "mean_recurrence": 4, "backprop_depth": 1, "block": block}
    section |= {"test_time_noise": 0.4, "test_time_noise_type": kind}
    compared(lively_model("huginn", n_layers=4, huginn=section).double(), logits_by_definition, 4)


def test_rows_iterate_as_often_as_the_draw_that_their_key_gives_them(lively_model):
    model = lively_model("huginn draws").double().train()
    model.begin_step(123)
    assert len({(one.without_grad, one.with_grad) for one in model.drawn}) > 1
    assert model.drawn[0] == draw_recurrence(model.section, 123)
    for key in range(5, 9):
        drawn = model.drawn[key % 3]
        compared(model, logits_by_definition, drawn.without_grad, drawn.with_grad, key, row_key=key)
    rows = torch.tensor([IDS] * 4), torch.tensor([STARTS] * 4)
    for found, key in zip(model(*rows, torch.arange(5, 9)), range(5, 9), strict=True):
        drawn = model.drawn[key % 3]
        wanted = logits_by_definition(model, drawn.without_grad, drawn.with_grad, key)
        torch.testing.assert_close(found, wanted, rtol=2e-5, atol=2e-5)

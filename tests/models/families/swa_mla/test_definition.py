"""SWA-MLA is its definition, written out: windows with sinks of the document, latent attention unabsorbed."""

import math

import pytest
import torch
from definitions import (
    IDS,
    STARTS,
    Weights,
    attention,
    compared,
    cross_entropy,
    dynamic_tanh,
    in_document,
    in_window,
    key_at,
    layer_norm,
    positions_of,
    rms_norm,
    rope,
    silu,
    softmax,
    uniform,
)


def logits_by_definition(model, key=None, w=None):
    """`key` is that of a training row."""
    recipe, section, w = model.recipe, model.section, w or Weights(model)
    length, positions = len(IDS), positions_of(STARTS)

    def dropped(x, stream):
        if section.dropout is None or key is None:
            return x
        kept = [[u >= section.dropout for u in uniform(key_at(key, i), stream, x.shape[1])] for i in range(length)]
        return x * torch.tensor(kept) / (1 - section.dropout)

    def scaled(q):
        if section.logit_scale_base is None or (key is not None and not section.logit_scale_in_training):
            return q
        window, base = section.logit_scale_window or 128, section.logit_scale_base
        factors = [math.log(base + position // window) / math.log(base) for position in positions]
        return q * torch.tensor(factors, dtype=torch.float64)[:, None, None]

    def norm(name, x):
        if section.norm == "dynamic_tanh":
            return dynamic_tanh(x, w[f"{name}.alpha"], w[f"{name}.gain"], w[f"{name}.bias"])
        return rms_norm(x, w[f"{name}.gain"], recipe.norm_eps)

    def latent_norm(name, x):
        if section.kv_norm == "layernorm":
            return layer_norm(x, w[f"{name}.gain"], w[f"{name}.bias"])
        return rms_norm(x, w[f"{name}.gain"], recipe.norm_eps)

    def turned(x):
        return rope(x, positions, recipe.rope_base, "interleaved", section.rope_factor)

    def sliding(name, x):
        q, k, v = (
            w.linear(f"{name}.{part}", x).view(length, -1, recipe.head_dim) for part in ("query", "key", "value")
        )
        window = section.window + (1 if section.window_inclusive_compat else 0)
        sees = in_window(STARTS, window, section.sink)
        return w.linear(f"{name}.out", attention(scaled(turned(q)), turned(k), v, sees))

    def latent(name, x):
        heads, nope, rotated, values = recipe.n_heads, section.qk_nope_dim, section.qk_rope_dim, section.v_dim
        behind_query = x
        if section.q_rank:
            behind_query = latent_norm(f"{name}.query_norm", w.linear(f"{name}.query_reduce", x))
        q = w.linear(f"{name}.query", behind_query).view(length, heads, nope + rotated)
        reduced = w.linear(f"{name}.kv_reduce", x)
        c = latent_norm(f"{name}.kv_norm", reduced[:, : section.kv_rank])
        k_rope = turned(reduced[:, None, section.kv_rank :])[:, 0]
        expanded = w.linear(f"{name}.kv_expand", c).view(length, heads, nope + values)
        q = torch.cat((q[..., :nope], turned(q[..., nope:])), dim=-1)
        k = torch.stack([torch.cat((expanded[:, h, :nope], k_rope), dim=-1) for h in range(heads)], dim=1)
        scale = 1 / math.sqrt(nope + rotated)
        return w.linear(f"{name}.out", attention(q, k, expanded[..., nope:], in_document(STARTS), scale=scale))

    x = dropped(w["embedding.weight"][IDS], 0)
    for layer in range(recipe.n_layers):
        at = f"blocks.{layer}"
        attend = sliding if layer % (section.n_swa + section.n_mla) < section.n_swa else latent
        x = x + dropped(attend(f"{at}.attention", norm(f"{at}.attention_norm", x)), 2 * layer + 1)
        y = norm(f"{at}.ffn_norm", x)
        y = w.linear(f"{at}.ffn.down", silu(w.linear(f"{at}.ffn.gate", y)) * w.linear(f"{at}.ffn.up", y))
        x = x + dropped(y, 2 * layer + 2)
    return norm("final_norm", x) @ w["embedding.weight"].T


def test_logits_are_the_definitions(lively_model, own_mode):
    compared(lively_model(own_mode).double(), logits_by_definition)


@pytest.mark.parametrize("changes", [{"window": 1, "sink": 2}, {"window": 2, "sink": 0, "n_swa": 1}], ids=str)
def test_windows_that_are_cut_into_blocks_are_the_definitions(lively_model, changes):
    section = {"kv_rank": 6, "qk_nope_dim": 4, "qk_rope_dim": 4, "v_dim": 6, **changes}
    compared(lively_model("swa_mla", swa_mla=section).double(), logits_by_definition)


@pytest.mark.parametrize("own", ["swa_mla ranks", "swa_mla latents alone", "swa_mla scaled", "swa_mla dropout"])
def test_a_token_decoded_behind_a_cache_is_the_definitions(lively_model, own):
    model = lively_model(own).double()
    cache, starts = model.new_cache(1), torch.tensor([STARTS])
    with torch.no_grad():
        model(torch.tensor([IDS[:-2]]), starts[:, :-2], cache=cache)
        found = model(torch.tensor([IDS[-2:]]), starts[:, -2:], cache=cache)[0]
    torch.testing.assert_close(found, logits_by_definition(model)[-2:], rtol=2e-5, atol=2e-5)


def test_training_drops_by_the_rows_key_and_smooths_its_targets(lively_model):
    model, key = lively_model("swa_mla dropout").double().train(), 77
    w = Weights(model, grad=True)
    compared(model, logits_by_definition, key, row_key=key)
    targets = [-100 if i % 5 == 0 else (7 * i) % 61 for i in range(len(IDS))]
    loss = model.loss(*(torch.tensor([row]) for row in (IDS, targets, STARTS)), torch.tensor([key]))
    logits, share, wanted = logits_by_definition(model, key, w), model.section.label_smoothing, 0
    for t, target in enumerate(targets):
        if target != -100:
            log_p = torch.log(softmax(logits[t]))
            wanted = wanted - (1 - share) * log_p[target] - share * log_p.sum() / len(log_p)
    torch.testing.assert_close(loss.total.double(), wanted, rtol=1e-5, atol=0)
    loss.total.backward()
    wanted.backward()
    for name, parameter in model.named_parameters():
        largest = float(w[name].grad.abs().max())
        torch.testing.assert_close(parameter.grad, w[name].grad, rtol=1e-4, atol=1e-5 * largest, msg=name)


def test_neither_happens_outside_training(lively_model):
    model = lively_model("swa_mla dropout").double()
    compared(model, logits_by_definition, row_key=77)
    loss = model.loss(*(torch.tensor([row]) for row in (IDS, IDS, STARTS)), torch.tensor([77]))
    torch.testing.assert_close(loss.total.double(), cross_entropy(logits_by_definition(model), IDS), rtol=1e-5, atol=0)


@pytest.mark.parametrize("in_training", [None, True])
def test_scores_grow_with_the_position_in_training_where_the_recipe_says_so(lively_model, in_training):
    section = {"kv_rank": 6, "qk_nope_dim": 4, "qk_rope_dim": 4, "v_dim": 6, "window": 5}
    section |= {"logit_scale_base": 1.2, "logit_scale_window": 3, "logit_scale_in_training": in_training}
    model = lively_model("swa_mla", swa_mla=section).double()
    compared(model, logits_by_definition)
    compared(model.train(), logits_by_definition, 77, row_key=77)


def test_the_window_of_the_scale_is_128_tokens_where_the_recipe_does_not_say(lively_model):
    section = {"logit_scale_base": 1.2}
    plain, scaled = (lively_model("swa_mla", max_seq_len=200, swa_mla=some) for some in ({}, section))
    ids = torch.randint(1, 61, (1, 150), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        apart_T = (plain(ids) - scaled(ids)).abs().amax((0, 2))
    assert apart_T[:128].max() == 0 and apart_T[128:].min() > 1e-4

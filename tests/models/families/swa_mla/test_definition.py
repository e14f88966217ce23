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
    dynamic_tanh,
    in_document,
    in_window,
    layer_norm,
    positions_of,
    rms_norm,
    rope,
    silu,
)


def logits_by_definition(model):
    recipe, section, w = model.recipe, model.section, Weights(model)
    length, positions = len(IDS), positions_of(STARTS)

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
        return w.linear(f"{name}.out", attention(turned(q), turned(k), v, sees))

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

    x = w["embedding.weight"][IDS]
    for layer in range(recipe.n_layers):
        at = f"blocks.{layer}"
        attend = sliding if layer % (section.n_swa + section.n_mla) < section.n_swa else latent
        x = x + attend(f"{at}.attention", norm(f"{at}.attention_norm", x))
        y = norm(f"{at}.ffn_norm", x)
        x = x + w.linear(f"{at}.ffn.down", silu(w.linear(f"{at}.ffn.gate", y)) * w.linear(f"{at}.ffn.up", y))
    return norm("final_norm", x) @ w["embedding.weight"].T


def test_logits_are_the_definitions(lively_model, own_mode):
    compared(lively_model(own_mode).double(), logits_by_definition)


@pytest.mark.parametrize("changes", [{"window": 1, "sink": 2}, {"window": 2, "sink": 0, "n_swa": 1}], ids=str)
def test_windows_that_are_cut_into_blocks_are_the_definitions(lively_model, changes):
    section = {"kv_rank": 6, "qk_nope_dim": 4, "qk_rope_dim": 4, "v_dim": 6, **changes}
    compared(lively_model("swa_mla", swa_mla=section).double(), logits_by_definition)


@pytest.mark.parametrize("own", ["swa_mla ranks", "swa_mla latents alone"])
def test_a_token_decoded_behind_a_cache_is_the_definitions(lively_model, own):
    model = lively_model(own).double()
    cache, starts = model.new_cache(1), torch.tensor([STARTS])
    with torch.no_grad():
        model(torch.tensor([IDS[:-2]]), starts[:, :-2], cache=cache)
        found = model(torch.tensor([IDS[-2:]]), starts[:, -2:], cache=cache)[0]
    torch.testing.assert_close(found, logits_by_definition(model)[-2:], rtol=2e-5, atol=2e-5)

"""Plain decoders: GPT-2 and Gemma 2 by their definitions, and every option shows."""

import math
from itertools import product

import pytest
import torch

from athanor.models.counts import cache_bytes_per_token, flops_per_token, parameter_counts
from athanor.models.families.vanilla.sizes import GEMMA_2, GPT_2
from athanor.models.sizes import SIZES

IDS = torch.randint(1, 61, (2, 12), generator=torch.Generator().manual_seed(0))
SHAPE = dict(n_layers=3, head_dim=6)


def attended(attention, x, cap=None, window=99, rope=None):
    """Causal attention, one head and one query after the other."""
    heads = (12, -1, attention.head_dim)
    q, k, v = (layer(x).view(heads) for layer in (attention.query, attention.key, attention.value))
    if rope is not None:
        q, k = ((y * rope[0] + torch.cat((-y[..., 3:], y[..., :3]), -1) * rope[1]) for y in (q, k))
    mixed = torch.zeros_like(q)
    for h, i in product(range(q.shape[1]), range(12)):
        group, seen = h * k.shape[1] // q.shape[1], range(max(0, i - window + 1), i + 1)
        scores = k[seen, group] @ q[i, h] / attention.head_dim**0.5
        scores = scores if cap is None else cap * (scores / cap).tanh()
        mixed[i, h] = scores.softmax(0) @ v[seen, group]
    return attention.out(mixed.flatten(1))


def gelu(x):
    return 0.5 * x * (1 + (math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)).tanh())


@torch.no_grad()
def test_gpt2_is_what_the_published_code_computes(lively_model):
    model = lively_model("vanilla", **SHAPE, n_kv_heads=4, vanilla=GPT_2)

    def norm(x, layer):
        centred = x - x.mean(-1, keepdim=True)
        return layer.gain * centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt() + layer.bias

    x = model.embedding.weight[IDS[0]] + model.position_embedding.weight[:12]
    for block in model.blocks:
        x = x + attended(block.attention, norm(x, block.attention_norm))
        x = x + block.ffn.down(gelu(block.ffn.up(norm(x, block.ffn_norm))))
    logits = norm(x, model.final_norm) @ model.embedding.weight.T
    torch.testing.assert_close(model(IDS[:1])[0], logits, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_gemma2_is_what_the_published_code_computes(lively_model):
    section = GEMMA_2.model_copy(update={"window": 5, "attention_cap": 0.5, "logit_cap": 2.0})
    model = lively_model("vanilla", **SHAPE, n_kv_heads=2, vanilla=section)

    def norm(x, layer):
        return layer.gain * x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt()

    angle = torch.arange(12.0)[:, None] * 10_000 ** (-torch.arange(0, 6, 2) / 6)
    rope = [turn.repeat(1, 2)[:, None] for turn in (angle.cos(), angle.sin())]
    x = model.embedding.weight[IDS[0]] * 24**0.5
    for layer, block in enumerate(model.blocks):
        window = 5 if layer % 2 == 0 else 99
        y = attended(block.attention, norm(x, block.attention_norm), 0.5, window, rope)
        x = x + norm(y, block.attention_branch_norm)
        y = norm(x, block.ffn_norm)
        x = x + norm(block.ffn.down(gelu(block.ffn.gate(y)) * block.ffn.up(y)), block.ffn_branch_norm)
    logits = 2.0 * (norm(x, model.final_norm) @ model.embedding.weight.T / 2.0).tanh()
    torch.testing.assert_close(model(IDS[:1])[0], logits, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    "changes",
    [
        {"positions": "learned"},
        {"norm": "layernorm"},
        {"branch_norm": True},
        {"ffn": "geglu"},
        {"ffn": "gelu"},
        {"bias": True},
        {"qk_norm": False},
        {"scale_embedding": True},
        {"window": 2},
        {"attention_cap": 0.1},
        {"logit_cap": 1.0},
    ],
    ids=str,
)
@torch.no_grad()
def test_each_option_changes_the_output(changes, lively_model):
    plain, other = lively_model("vanilla"), lively_model("vanilla", vanilla=changes)
    common = plain.state_dict().keys() & other.state_dict().keys()
    other.load_state_dict({name: plain.state_dict()[name] for name in common}, strict=False)
    assert (plain(IDS) - other(IDS)).abs().max() > 1e-2


@torch.no_grad()
def test_logits_and_their_loss_stay_below_the_cap(lively_model):
    model = lively_model("vanilla gemma2")
    model.embedding.weight.mul_(40)
    logits = model(IDS)
    assert 2.9 < logits.abs().max() <= 3.0
    wanted = torch.nn.functional.cross_entropy(logits.flatten(0, 1), IDS.flatten(), reduction="sum")
    torch.testing.assert_close(model.loss(IDS, IDS).total, wanted)


def test_windows_are_in_every_other_block_from_the_first_on_and_bound_their_caches(lively_model):
    model = lively_model("vanilla gemma2")
    assert [block.attention.window for block in model.blocks] == [3, None, 3]
    one, two = (cache_bytes_per_token(model.recipe, tokens) * tokens for tokens in (40, 41))
    assert two - one == pytest.approx(2 * 2 * 2 * 8)  # bytes of keys and values of two heads, in one block


def test_learned_positions_end_where_the_model_does(lively_model):
    model, cache = lively_model("vanilla gpt2"), None
    cache = model.new_cache(2)
    model.hidden(torch.ones(2, 64, dtype=torch.int64), cache=cache)
    with pytest.raises(Exception, match=r"position 64 exceeds model\.max_seq_len=64") as refused:
        model.hidden(IDS[:, :1], cache=cache)
    assert "\n" not in str(refused.value)
    running_on = model.hidden(IDS[:, :1], torch.tensor([[0], [60]]), cache=cache)
    assert running_on.isfinite().all()


@pytest.mark.parametrize(
    ("name", "total"),
    [
        ("gpt2-124m", 124_439_808),
        ("gemma-2-2b", 2_614_341_888),
        ("pygemma-2-100m", 65_480_448),
        ("pygemma-2-2b", 1_739_802_624),
    ],
)
def test_sizes_have_their_counts(name, total):
    assert parameter_counts(SIZES[name])["total"] == total


def test_a_window_makes_long_rows_cheaper(tiny_recipe):
    gemma = tiny_recipe("vanilla gemma2")
    whole = tiny_recipe("vanilla gemma2", vanilla=gemma.vanilla.model_copy(update={"window": None}))
    assert flops_per_token(gemma, 5).forward < flops_per_token(whole, 5).forward
    assert flops_per_token(gemma, 3) == flops_per_token(whole, 3)


@pytest.mark.parametrize("changes", [{"window": 0}, {"attention_cap": 0.0}, {"positions": "alibi"}], ids=str)
def test_an_impossible_section_is_refused_by_field(changes, tiny_recipe):
    ((name, _),) = changes.items()
    with pytest.raises(ValueError, match=f"vanilla.{name}"):
        tiny_recipe("vanilla", vanilla=changes)

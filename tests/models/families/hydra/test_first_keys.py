"""Recursions that read the first one's keys and values: made once, cached once, counted once."""

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from athanor.models.families.hydra.ccgqa import FirstKeys

IDS = torch.randint(1, 61, (2, 20), generator=torch.Generator().manual_seed(0))
SECTION = {"recursions": 3, "mor_kv": "first", "capacity": 1, "curriculum": False, "mixing_kernel": 2}


@pytest.fixture
def recursive(lively_model):
    return lambda **changes: lively_model("hydra", hydra={**SECTION, **changes})


def test_keys_and_values_are_made_once_a_block(recursive):
    model, calls = recursive(), []
    attention = model.blocks[0].layers[0].attention
    for part in (attention.key, attention.value, attention.shifted_value, attention.query):
        part.register_forward_hook(lambda part, _args, _out: calls.append(part))
    model(IDS)
    made = [calls.count(part) for part in (attention.key, attention.value, attention.shifted_value, attention.query)]
    assert made == [1, 1, 1, 3]


@torch.no_grad()
def test_later_runs_attend_from_their_own_stream_to_the_first_ones_keys(recursive):
    model, seen = recursive(), []
    model.blocks[0].layers[0].attention.register_forward_pre_hook(lambda _m, args: seen.append(args))
    model(IDS)
    (early, positions, *_), (late, *_), _ = seen
    attention, first = model.blocks[0].layers[0].attention, FirstKeys()
    attention(early, positions, first=first)
    mean = attention.mixed(late, positions)[0] - attention.queries(late, positions, first)
    raw_keys = (attention.key(late) - first.raw_k_BTC).unflatten(2, (2, 1, 8)).expand(-1, -1, -1, 2, -1) / 2
    torch.testing.assert_close(mean, raw_keys.flatten(2, 3), atol=1e-5, rtol=1e-5)
    other = FirstKeys()
    attention(early * torch.linspace(0.5, 2, 20)[:, None], positions, first=other)
    changed = attention(late, positions, first=first) - attention(late, positions, first=other)
    assert changed.abs().max() > 1e-2
    assert (recursive(mor_kv="each")(IDS) - model(IDS)).abs().max() > 1e-2


@torch.no_grad()
def test_the_cache_holds_one_slot_of_keys_and_values_a_block(recursive):
    model = recursive()
    cache = model.new_cache(2)
    model(IDS, cache=cache)
    for block_states in cache.layers:
        slots = [states[0] for states in block_states]
        assert [state.keys_values.length for state in slots] == [20, 0, 0]
        assert [state.latent_BPC.shape[1:] for state in slots] == [(3, 48), (3, 32), (3, 32)]
    held = 0
    for state in (states[0] for block_states in cache.layers for states in block_states):
        keys_values = state.keys_values.held(0, 20) if state.keys_values.length else ()
        kept = (*keys_values, state.latent_BPC, state.shifted_B1C)
        held += sum(x.numel() for x in kept if x is not None)
    assert model.cache_bytes_per_token(20) * 20 * len(IDS) == pytest.approx(2 * held)


@pytest.mark.parametrize("mor_kv", ["first", "each"])
@torch.no_grad()
def test_flops_equal_those_torch_counts(recursive, mor_kv):
    model = recursive(mor_kv=mor_kv, experts=0, moe_layers=0)
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        model(IDS)
    wanted = model.body_flops_per_token(20) + 2 * model.embedding.weight.numel()
    assert counter.get_total_flops() / IDS.numel() == pytest.approx(wanted, rel=0.001)


def test_sharing_saves_what_the_later_recursions_would_have_made(recursive):
    each, first = recursive(mor_kv="each"), recursive()
    one = 2 * (2 * 24 * 16 + 16 * 8 * 2)  # projections of key and values, mixing of keys
    assert each.body_flops_per_token(9) - first.body_flops_per_token(9) == 3 * 2 * one
    assert each.cache_bytes_per_token(64) > 2.5 * first.cache_bytes_per_token(64)

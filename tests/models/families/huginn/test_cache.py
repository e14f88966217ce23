"""Caches that look back in depth: which slot a step has, and what sharing slots changes."""

import pytest
import torch

from athanor.core.errors import UserError
from athanor.models.families.huginn.adaptive import adaptively
from athanor.models.families.huginn.cache import Lookup

IDS = torch.randint(1, 61, (3, 12), generator=torch.Generator().manual_seed(0))


def test_slots_are_those_of_the_published_lookups_for_any_core():
    for layers in (1, 3, 4):
        steps = [(step, layer) for step in range(20) for layer in range(layers)]
        index = {pair: i for i, pair in enumerate(steps)}
        wanted = {
            "latest": lambda i, _s, _l: i,
            "always-last": lambda _i, _s, layer: layer,
            f"compress-s{2 * layers}": lambda i, _s, _l, n=2 * layers: i % n,
            "compress-r2": lambda i, _s, _l: i // 2,
            "compress-anchor": lambda _i, s, layer, n=layers: min(s, 8) * n + layer,
        }
        for name, slot in wanted.items():
            lookup = Lookup(name, layers)
            assert [lookup.slot(*pair) for pair in steps] == [slot(index[pair], *pair) for pair in steps]


@pytest.mark.parametrize("name", ["nearest", "compress-s3", "compress-s0", "compress-x4"])
def test_a_lookup_that_is_not_is_refused_in_one_line(model, name):
    with pytest.raises(UserError, match=name) as refused, adaptively(model, lookup=name):
        pass
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("lookup", ["full", "latest", "available", "compress-s6", "compress-r1", "compress-anchor"])
@torch.no_grad()
def test_lookups_that_keep_every_step_decode_as_the_full_forward_does(model, lookup, decoded):
    with adaptively(model, lookup=lookup):
        found, steps = decoded(model, IDS, [4, 1, 5, 2])
    torch.testing.assert_close(found, model(IDS), atol=1e-5, rtol=1e-5)
    assert (steps == 3).all()


@pytest.mark.parametrize("lookup", ["always-last", "compress-s2", "compress-s4", "compress-r2", "compress-r3"])
@torch.no_grad()
def test_lookups_that_share_slots_decode_the_same_in_any_pieces_and_batch_but_not_what_the_full_forward_does(
    model, lookup, decoded
):
    with adaptively(model, lookup=lookup):
        found, _ = decoded(model, IDS, [1] * 12)
        torch.testing.assert_close(decoded(model, IDS, [7, 5])[0], found, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(decoded(model, IDS[1:2], [12])[0], found[1:2], atol=1e-5, rtol=1e-5)
        cache = model.new_cache(3)
        model(IDS, cache=cache)
    assert len(cache.layers[1].slots) == len({Lookup(lookup, 2).slot(s, la) for s in range(3) for la in range(2)})
    assert (found - model(IDS)).abs().max() > 1e-3

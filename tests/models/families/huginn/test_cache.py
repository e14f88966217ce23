"""Caches that look back in depth: which slot a step has, and what sharing slots changes."""

import pytest
import torch

from athanor.core.errors import UserError
from athanor.models.families.huginn.adaptive import adaptively
from athanor.models.families.huginn.cache import CoreCache, Lookup
from athanor.models.families.huginn.exit_criteria import ExitRule
from athanor.models.families.huginn.iteration import Piece

IDS = torch.randint(1, 61, (3, 12), generator=torch.Generator().manual_seed(0))


def test_slots_are_those_of_the_published_lookups_for_any_core():
    for layers in (1, 3, 4):
        steps = [(step, layer) for step in range(20) for layer in range(layers)]
        index = {pair: i for i, pair in enumerate(steps)}
        wanted = {
            "latest": lambda i, _s, _l: i,
            "skip": lambda i, _s, _l: i,
            "randomized": lambda i, _s, _l: i,
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


@pytest.mark.parametrize(
    "lookup",
    ["full", "skip", "latest", "available", "randomized", "compress-s6", "compress-r1", "compress-anchor"],
)
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


def planted(stopped_after, starts=0):
    """What a position sees in each step of a cache whose keys say (position, step) and whose positions stopped after so
    many steps, the newest one excepted; `[steps, S]` positions and steps."""
    core, seen = CoreCache(Lookup("randomized", 1), None, False), []
    newest = len(stopped_after) - 1
    for at, depth in enumerate(stopped_after):
        piece = Piece(at, 1, torch.tensor([[at - starts]]), torch.empty(0), None)
        for step in range(depth):
            core.enter(step, at, torch.ones(1, 1, dtype=torch.bool))
            k = torch.tensor([at, step], dtype=torch.float32).view(1, 1, 1, 2)
            k, v = core.remember(step, piece, None, 0, k, -k)
            assert torch.equal(k, -v)
            seen += [k[0, :, 0].long()] if at == newest else []
    return [one.unbind(-1) for one in seen]


def test_a_randomized_lookup_shows_steps_that_positions_took_once_one_of_them_had_stopped():
    depths = [4] * 150 + [2] * 150 + [5]
    for step, (position_S, step_S) in enumerate(planted(depths)):
        assert position_S.tolist() == list(range(301))
        if step < 2:  # nobody has stopped yet
            assert (step_S == step).all()
            continue
        for depth, of_depth in ((min(4, step + 1), step_S[:150]), (2, step_S[150:300])):
            shares = of_depth.bincount(minlength=depth) / 150
            assert len(shares) == depth and (shares - 1 / depth).abs().max() < 0.15
    third, fourth = (step_S[150:300] for _, step_S in planted(depths)[2:4])
    assert (third != fourth).float().mean() > 0.3  # each step draws for itself


def test_a_randomized_lookup_draws_by_positions_within_the_document_and_steps_alone():
    alone = planted([3, 2, 3, 1, 4])
    behind_others = planted([1, 1, 3, 2, 3, 1, 4], starts=2)
    for (_, one_S), (_, other_S) in zip(alone, behind_others, strict=True):
        assert torch.equal(one_S, other_S[2:])
    untouched = planted([1, 1, 4, 4, 4], starts=2)  # of its own document nobody has stopped
    assert all((step_S[2:] == step).all() for step, (_, step_S) in enumerate(untouched))


@torch.no_grad()
def test_positions_that_stopped_are_skipped_or_shown_by_chance_alike_in_any_pieces_and_batch(deeper, decoded):
    model, exits, found = deeper(8), ExitRule("latent-diff", 0.3), {}
    for lookup in ("full", "skip", "randomized", "latest"):
        with adaptively(model, exits, lookup=lookup):
            found[lookup], steps = decoded(model, IDS, [1] * 12)
            assert len(steps.unique()) > 1
            torch.testing.assert_close(decoded(model, IDS, [7, 5])[0], found[lookup], atol=1e-5, rtol=1e-5)
            torch.testing.assert_close(decoded(model, IDS[1:2], [12])[0], found[lookup][1:2], atol=1e-5, rtol=1e-5)
    assert torch.equal(found["full"], found["skip"])
    for one, other in (("randomized", "latest"), ("randomized", "full"), ("latest", "full")):
        assert (found[one] - found[other]).abs().max() > 1e-3

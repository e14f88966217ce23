"""Decoding with early exits: caches that look back in depth, rows that stop by themselves, drafts and verification."""

import math

import numpy as np
import pytest
import torch

from athanor.core.errors import UserError
from athanor.data.loader import Batch
from athanor.models.decoding.generate import generate
from athanor.models.families.huginn.adaptive import adaptively, exit_steps, speculate
from athanor.models.families.huginn.cache import Lookup
from athanor.models.families.huginn.exit_criteria import CRITERIA, ExitRule, Watch

IDS = torch.randint(1, 61, (3, 12), generator=torch.Generator().manual_seed(0))
PROMPTS = [[5, 9, 2], [7], [3, 3, 8, 1, 40, 22]]
NO_EOS = -1


@pytest.fixture
def model(lively_model):
    return lively_model("huginn")


def deeper(lively_model, steps):
    ends = {"prelude_layers": 1, "coda_layers": 1, "backprop_depth": 1}
    return lively_model("huginn", huginn={**ends, "mean_recurrence": steps})


# Cached decoding -------------------------------------------------------------------------------------------------


@torch.no_grad()
def decoded(model, ids, pieces, doc_start=None):
    """Logits and steps of rows that come in pieces."""
    cache, found, at = model.new_cache(len(ids)), [], 0
    for piece in pieces:
        starts = None if doc_start is None else doc_start[:, at : at + piece]
        found.append(model(ids[:, at : at + piece], starts, cache=cache))
        at += piece
    return torch.cat(found, dim=1), exit_steps(model, cache)


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
def test_lookups_that_keep_every_step_decode_as_the_full_forward_does(model, lookup):
    with adaptively(model, lookup=lookup):
        found, steps = decoded(model, IDS, [4, 1, 5, 2])
    torch.testing.assert_close(found, model(IDS), atol=1e-5, rtol=1e-5)
    assert (steps == 3).all()


@pytest.mark.parametrize("lookup", ["always-last", "compress-s2", "compress-s4", "compress-r2", "compress-r3"])
@torch.no_grad()
def test_lookups_that_share_slots_decode_the_same_in_any_pieces_and_batch_but_not_what_the_full_forward_does(
    model, lookup
):
    with adaptively(model, lookup=lookup):
        found, _ = decoded(model, IDS, [1] * 12)
        torch.testing.assert_close(decoded(model, IDS, [7, 5])[0], found, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(decoded(model, IDS[1:2], [12])[0], found[1:2], atol=1e-5, rtol=1e-5)
        cache = model.new_cache(3)
        model(IDS, cache=cache)
    assert len(cache.layers[1].slots) == len({Lookup(lookup, 2).slot(s, la) for s in range(3) for la in range(2)})
    assert (found - model(IDS)).abs().max() > 1e-3


def test_a_position_beyond_the_model_is_refused_also_in_a_cache(model):
    cache = model.new_cache(1)
    model(torch.ones(1, 64, dtype=torch.int64), cache=cache)
    with pytest.raises(UserError, match=r"position 64 exceeds model\.max_seq_len=64"):
        model(IDS[:1, :1], cache=cache)


def test_a_row_ends_where_its_own_prompt_and_answer_fill_the_model(lively_model):
    model = lively_model("huginn", max_seq_len=10)
    answers = generate(model, PROMPTS, max_new_tokens=50, eos_id=NO_EOS)
    assert [len(answer) for answer in answers] == [7, 9, 4]
    assert answers[1] == generate(model, PROMPTS[1:2], max_new_tokens=50, eos_id=NO_EOS)[0]


# Early exits -----------------------------------------------------------------------------------------------------

THRESHOLDS = {
    "latent-diff": 0.3,
    "cosine": 0.06,
    "entropy-diff": 0.2,
    "kl": 0.2,
    "minp-kl": 0.05,
    "argmax-stability": 2,
}


def naive_value(criterion, before, now, logits_before, logits_now, vocab):
    """The measure compared with the threshold, written out for one token."""
    if criterion == "latent-diff":
        return ((now - before).norm() / now.norm()).item()
    if criterion == "cosine":
        return 1 - (now @ before / now.norm() / before.norm()).item()
    p = [None if logits is None else logits.softmax(0) for logits in (logits_before, logits_now)]
    if criterion == "entropy-diff":
        entropy = [100.0 if one is None else -(one * one.log()).sum().item() for one in p]
        return abs(entropy[1] - entropy[0])
    if criterion == "minp-kl":
        for one in p:
            if one is not None:
                one[one < 0.1 * one.max()] = 1 / vocab
                one /= one.sum().clone()
    p = [torch.full((vocab,), 1 / vocab) if one is None else one for one in p]
    return sum((a * (a / b).log()).item() for a, b in zip(*p, strict=True))


@pytest.mark.parametrize("criterion", [c for c in CRITERIA if c != "argmax-stability"])
def test_criteria_measure_what_their_formula_says(criterion):
    generator = torch.Generator().manual_seed(0)
    states = torch.randn(5, 1, 1, 8, generator=generator)
    logits = torch.randn(4, 1, 1, 11, generator=generator) * 2
    for step in range(4):
        before = None if step == 0 else logits[step - 1, 0, 0]
        value = naive_value(criterion, states[step, 0, 0], states[step + 1, 0, 0], before, logits[step, 0, 0], 11)
        for threshold, stops in ((value * 0.999, False), (value * 1.001, True)):
            exit = ExitRule(criterion, threshold)
            watch = Watch(exit, states[0], 11)
            seen = logits if exit.reads_logits else states[1:]
            found = [watch.stops(one).item() for one in seen[: step + 1]]
            assert found[-1] is stops


def test_argmax_stability_counts_equal_tokens_in_a_row():
    watch = Watch(ExitRule("argmax-stability", 2), torch.zeros(1, 1, 3), 4)
    tokens = [1, 1, 2, 2, 2, 0]
    found = [watch.stops(torch.eye(4)[t].view(1, 1, 4)).item() for t in tokens]
    assert found == [False, False, False, False, True, False]


@pytest.mark.parametrize("lookup", ["latest", "full", "always-last", "compress-s4"])
@pytest.mark.parametrize("criterion", CRITERIA)
def test_rows_stop_by_themselves_and_answer_as_if_alone(criterion, lookup, lively_model):
    model = deeper(lively_model, 8)
    pads = torch.tensor([[0], [3], [5]])
    starts = torch.where(torch.arange(12) >= pads, pads, 0)
    with adaptively(model, ExitRule(criterion, THRESHOLDS[criterion]), lookup=lookup):
        together, steps = decoded(model, IDS, [1] * 12, starts)
        in_pieces, steps_in_pieces = decoded(model, IDS, [6, 1, 5], starts)
        for row, pad in enumerate(pads[:, 0].tolist()):
            alone, steps_alone = decoded(model, IDS[row : row + 1, pad:], [1] * (12 - pad))
            torch.testing.assert_close(together[row, pad:], alone[0], atol=1e-5, rtol=1e-5)
            assert torch.equal(steps[row, pad:], steps_alone[0])
    torch.testing.assert_close(in_pieces, together, atol=1e-5, rtol=1e-5)
    assert torch.equal(steps_in_pieces, steps)
    assert len(steps.unique()) > 2


@pytest.mark.parametrize("criterion", CRITERIA)
@torch.no_grad()
def test_a_threshold_never_reached_runs_to_the_end_and_one_always_reached_stops_at_once(criterion, model):
    never, always = (math.inf, 0) if criterion == "argmax-stability" else (-1.0, math.inf)
    with adaptively(model, ExitRule(criterion, never)):
        found, steps = decoded(model, IDS, [5, 7])
    torch.testing.assert_close(found, model(IDS), atol=1e-5, rtol=1e-5)
    assert (steps == 3).all()
    with adaptively(model, ExitRule(criterion, always)):
        found, steps = decoded(model, IDS, [5, 7])
    with model.recurring(1):
        torch.testing.assert_close(found, model(IDS), atol=1e-5, rtol=1e-5)
    assert (steps == 1).all()


@pytest.mark.parametrize("criterion", ["latent-diff", "kl"])
def test_checks_can_be_some_steps_apart(criterion, lively_model):
    model = deeper(lively_model, 8)
    reads = []
    model.coda[0].register_forward_hook(lambda *_: reads.append(1))
    with adaptively(model, ExitRule(criterion, math.inf, check_every=3)):
        _, steps = decoded(model, IDS[:1], [1] * 4)
    assert (steps == 3).all() and len(reads) == 4
    with pytest.raises(UserError, match="check_every=0"):
        ExitRule(criterion, check_every=0)


def test_full_lookup_hides_positions_that_stopped_before_and_latest_shows_their_last_step(lively_model):
    model = deeper(lively_model, 6)
    exit = ExitRule("latent-diff", THRESHOLDS["latent-diff"])
    found = {}
    for lookup in ("full", "latest"):
        with adaptively(model, exit, lookup=lookup):
            found[lookup] = decoded(model, IDS, [12])[0]
    torch.testing.assert_close(found["full"][:, 0], found["latest"][:, 0])
    assert (found["full"] - found["latest"]).abs().max() > 1e-3


def test_an_unknown_criterion_is_refused_in_one_line():
    with pytest.raises(UserError, match="exit criterion 'boredom' does not exist") as refused:
        ExitRule("boredom")
    assert "\n" not in str(refused.value)


def test_generation_within_adaptively_is_that_of_each_row_alone_and_leaves_the_model_as_it_was(lively_model):
    model = deeper(lively_model, 6)
    plain = generate(model, PROMPTS, max_new_tokens=12, eos_id=NO_EOS)
    with adaptively(model, ExitRule("latent-diff", 0.5), continuous=True):
        together = generate(model, PROMPTS, max_new_tokens=12, eos_id=NO_EOS)
        alone = [generate(model, [prompt], max_new_tokens=12, eos_id=NO_EOS)[0] for prompt in PROMPTS]
    assert together == alone != plain
    assert generate(model, PROMPTS, max_new_tokens=12, eos_id=NO_EOS) == plain


@torch.no_grad()
@pytest.mark.parametrize("continuous", [False, True])
@pytest.mark.parametrize("lookup", ["latest", "full", "always-last", "compress-s4", "compress-r3"])
@pytest.mark.parametrize("criterion", [None, "latent-diff", "kl"])
@torch.no_grad()
def test_packed_prompts_leave_the_cache_of_left_padded_ones(criterion, lookup, continuous, lively_model):
    model, pads = deeper(lively_model, 8), torch.tensor([[3], [5], [0]])
    ids = torch.tensor([[0] * (6 - len(prompt)) + prompt for prompt in PROMPTS])
    exit = None if criterion is None else ExitRule(criterion, THRESHOLDS[criterion])
    with adaptively(model, exit, lookup=lookup, continuous=continuous):
        h_ND, packed = model.prefill(PROMPTS)
        padded = model.new_cache(3)
        found = [(h_ND, model.hidden(ids, torch.where(torch.arange(6) >= pads, pads, 0), cache=padded)[:, -1])]
        for token in range(1, 6):
            newest = torch.full((3, 1), token)
            found.append(tuple(model.hidden(newest, pads, cache=cache)[:, -1] for cache in (packed, padded)))
    for one, other in found:
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)
    steps = [exit_steps(model, cache)[torch.arange(11) >= pads] for cache in (packed, padded)]
    assert torch.equal(*steps)
    assert criterion is None or len(steps[0].unique()) > 1


def test_continuous_thought_starts_a_token_from_the_state_before_it_unless_a_document_begins(model):
    ends, starts = [], []
    model.core.register_forward_hook(lambda _m, _args, out: ends.append(out[:, -1:]))
    model.core.register_forward_pre_hook(lambda _m, args: starts.append(args[0]))
    doc_start = torch.tensor([[0, 0, 0, 0, 4, 4]] * 3)
    with adaptively(model, continuous=True):
        decoded(model, IDS[:, :6], [3, 1, 1, 1], doc_start)
    first = [starts[3 * piece] for piece in range(4)]
    noise = model.initial_state(torch.zeros(3, 6, 24), torch.arange(6) - doc_start, None)
    assert torch.equal(first[0], noise[:, :3])
    assert torch.equal(first[1], ends[2])
    assert torch.equal(first[2], noise[:, 4:5])
    assert torch.equal(first[3], ends[8])


# Self-speculative decoding ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("draft_steps", "lookahead"), [(1, 4), (2, 8), (3, 8), (5, 1)])
def test_speculation_answers_what_greedy_decoding_does(draft_steps, lookahead, lively_model):
    model = deeper(lively_model, 4).train()
    greedy = generate(model, PROMPTS, max_new_tokens=14, eos_id=NO_EOS)
    options = {"draft_steps": draft_steps, "lookahead": lookahead}
    assert speculate(model, PROMPTS, max_new_tokens=14, eos_id=NO_EOS, **options) == greedy
    eos, stop = greedy[0][4], greedy[1][2]
    wanted = generate(model, PROMPTS, max_new_tokens=14, eos_id=eos, stop_ids=[stop])
    assert speculate(model, PROMPTS, max_new_tokens=14, eos_id=eos, stop_ids=[stop], **options) == wanted
    assert model.training


def test_good_drafts_save_deep_passes_and_room_is_kept(lively_model):
    model = deeper(lively_model, 4)
    model.recipe = model.recipe.model_copy(update={"max_seq_len": 20})
    deep = []
    model.core.register_forward_hook(lambda *_: deep.append(model._asked is None))
    answers = speculate(model, [[4, 5]], max_new_tokens=50, eos_id=NO_EOS, draft_steps=4, lookahead=8)
    assert len(answers[0]) == 18
    assert sum(deep) == 4 * 3  # the prompt's first token, then 9 tokens a pass


def test_speculation_refuses_what_cannot_be(model):
    for options, message in (({"lookahead": 0}, "lookahead=0"), ({"draft_steps": 0}, "1 step or more")):
        with pytest.raises(UserError, match=message):
            speculate(model, PROMPTS, **{"max_new_tokens": 4, "eos_id": NO_EOS, "draft_steps": 1, **options})
    with pytest.raises(UserError, match="exclude each other"), adaptively(model, continuous=True):
        speculate(model, PROMPTS, max_new_tokens=4, eos_id=NO_EOS, draft_steps=1)
    with pytest.raises(ValueError, match="1 to 63"):
        speculate(model, [[]], max_new_tokens=4, eos_id=NO_EOS, draft_steps=1)


@torch.no_grad()
def test_the_map_of_exits_shares_the_tokens_out_by_criterion(lively_model):
    model = deeper(lively_model, 6)

    def exits(ids):
        batch = Batch(ids.numpy(), None, np.zeros(ids.shape, np.int64), *np.zeros((2, len(ids)), np.int64))
        return next(one for one in model.maps([batch]) if one.name == "exit_steps")

    whole = exits(IDS)
    assert whole.y_ticks == list(CRITERIA) and len(whole.x_ticks) == 6
    assert [sum(row) for row in whole.values] == pytest.approx([1.0] * 6)
    first = IDS[:, :1]  # nothing before it: its exit depends on no other token's
    for criterion, shares in zip(CRITERIA, exits(first).values, strict=True):
        with adaptively(model, ExitRule(criterion)):
            _, steps = decoded(model, first, [1])
        wanted = torch.bincount(steps[:, 0] - 1, minlength=6) / 3
        assert shares == pytest.approx(wanted.tolist())

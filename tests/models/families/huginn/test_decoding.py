"""Cached decoding: rows that stop by themselves, each as if alone, in any pieces, packed or padded."""

import math

import pytest
import torch

from athanor.core.errors import UserError
from athanor.models.decoding.generate import generate
from athanor.models.families.huginn.adaptive import adaptively, exit_steps
from athanor.models.families.huginn.exit_criteria import CRITERIA, ExitRule
from athanor.models.skeleton import Context

IDS = torch.randint(1, 61, (3, 12), generator=torch.Generator().manual_seed(0))
PROMPTS = [[5, 9, 2], [7], [3, 3, 8, 1, 40, 22]]
NO_EOS = -1
THRESHOLDS = {
    "latent-diff": 0.3,
    "cosine": 0.06,
    "entropy-diff": 0.2,
    "kl": 0.2,
    "minp-kl": 0.05,
    "argmax-stability": 2,
}


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


@pytest.mark.parametrize("lookup", ["latest", "full", "always-last", "compress-s4"])
@pytest.mark.parametrize("criterion", CRITERIA)
def test_rows_stop_by_themselves_and_answer_as_if_alone(criterion, lookup, deeper, decoded):
    model = deeper(8)
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
def test_a_threshold_never_reached_runs_to_the_end_and_one_always_reached_stops_at_once(criterion, model, decoded):
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
def test_checks_can_be_some_steps_apart(criterion, deeper, decoded):
    model = deeper(8)
    reads = []
    model.coda[0].register_forward_hook(lambda *_: reads.append(1))
    with adaptively(model, ExitRule(criterion, math.inf, check_every=3)):
        _, steps = decoded(model, IDS[:1], [1] * 4)
    assert (steps == 3).all()
    assert len(reads) == (4 * 2 if criterion == "kl" else 4)  # a check compares with the step before it
    with pytest.raises(UserError, match="check_every=0"):
        ExitRule(criterion, check_every=0)


def test_full_lookup_hides_positions_that_stopped_before_and_latest_shows_their_last_step(deeper, decoded):
    model = deeper(6)
    exit = ExitRule("latent-diff", THRESHOLDS["latent-diff"])
    found = {}
    for lookup in ("full", "latest"):
        with adaptively(model, exit, lookup=lookup):
            found[lookup] = decoded(model, IDS, [12])[0]
    torch.testing.assert_close(found["full"][:, 0], found["latest"][:, 0])
    assert (found["full"] - found["latest"]).abs().max() > 1e-3


@torch.no_grad()
@pytest.mark.parametrize("continuous", [False, True])
@pytest.mark.parametrize("lookup", ["latest", "full", "always-last", "compress-s4", "compress-r3"])
@pytest.mark.parametrize("criterion", [None, "latent-diff", "kl"])
@torch.no_grad()
def test_packed_prompts_leave_the_cache_of_left_padded_ones(criterion, lookup, continuous, deeper):
    model, pads = deeper(8), torch.tensor([[3], [5], [0]])
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


def test_continuous_thought_starts_a_token_from_the_state_before_it_unless_a_document_begins(model, decoded):
    ends, starts = [], []
    model.core.register_forward_hook(lambda _m, _args, out: ends.append(out[:, -1:]))
    model.core.register_forward_pre_hook(lambda _m, args: starts.append(args[0]))
    doc_start = torch.tensor([[0, 0, 0, 0, 4, 4]] * 3)
    with adaptively(model, continuous=True):
        decoded(model, IDS[:, :6], [3, 1, 1, 1], doc_start)
    first = [starts[3 * piece] for piece in range(4)]
    context = Context(0, torch.arange(6) - doc_start, doc_start, None, None, None)
    noise = model.initial_state(torch.zeros(3, 6, 24), context)
    assert torch.equal(first[0], noise[:, :3])
    assert torch.equal(first[1], ends[2])
    assert torch.equal(first[2], noise[:, 4:5])
    assert torch.equal(first[3], ends[8])

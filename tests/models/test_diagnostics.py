"""What a model says of a training step is the same whatever stands in the padding behind it."""

import pytest
import torch

from athanor.core.targets import IGNORE

ROWS, TOKENS, LEARNED = 3, 20, (20, 12, 7)


def padded(padding: int):
    """Rows of one conversation each, the token `padding` behind it; nothing is learned from that."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(1, 61, (ROWS, TOKENS), generator=generator)
    targets, doc_start = torch.full_like(ids, IGNORE), torch.zeros_like(ids)
    for row, length in enumerate(LEARNED):
        targets[row, : length - 1] = ids[row, 1:length]
        ids[row, length:], doc_start[row, length:] = padding, length
    return ids, targets, doc_start, torch.arange(ROWS)


def diagnostics(model, *rows):
    """Of a step of these rows in one slice."""
    return model.diagnostics(model.loss(*rows).tally.means(lambda totals: totals))


@torch.no_grad()
def test_padding_counts_in_no_diagnostic(mode, lively_model):
    found = []
    for padding in (0, 7, 59):
        model = lively_model(mode).train()
        if "sequence" in mode:
            pytest.skip("pools over whole rows")
        model.apply_schedule(model.schedule(0.9))
        model.begin_step(0)
        found.append(diagnostics(model, *padded(padding)))
    for other in found[1:]:
        assert other == pytest.approx(found[0], rel=1e-5, abs=1e-6)


@torch.no_grad()
def test_a_pass_without_a_counted_token_says_nothing_of_tokens(mode, lively_model):
    model = lively_model(mode).train()
    ids, targets, doc_start, row_key = padded(0)
    model.begin_step(0)
    found = diagnostics(model, ids, torch.full_like(targets, IGNORE), doc_start, row_key)
    assert found.keys() <= {"mod_open", "recurrence", "recurrence_with_grad", "alpha_rms", "static_entropy"}
    assert all(value == value for value in found.values())


@torch.no_grad()
def test_serving_and_evaluation_tally_nothing(mode, lively_model):
    model = lively_model(mode)
    assert model.loss(*padded(0)).tally.means(lambda totals: totals) == {}


def test_the_smallest_shares_are_diagnostics(mode, lively_model):
    model = lively_model(mode).train()
    if mode.startswith("hydra") and not model.recipe.hydra.moe_layers:
        return
    assert set(model.smallest_shares) <= diagnostics(model, *padded(0)).keys()

"""What follows from sizes: steps and batches, held-out text, and how much reading is worth it."""

from __future__ import annotations

import pytest

from athanor.data.epochs import MOST_EPOCHS
from athanor.flows.fitting.chosen import (
    BATCH,
    FEW_STEPS,
    MOST_STEPS,
    SMALLEST_BATCH,
    Length,
    held_out_fraction,
    planned_tokens,
    worth_reading_tokens,
)
from athanor.flows.fitting.counted import Counted
from athanor.tasks.acquire import LEAST_HELD_OUT_BYTES


@pytest.mark.parametrize(
    ("tokens", "batch_tokens"),
    [
        (500 * BATCH, BATCH),
        (4 * MOST_STEPS * BATCH, 4 * BATCH),
        (FEW_STEPS * BATCH / 2, BATCH // 2),
        (0, SMALLEST_BATCH),
    ],
)
def test_a_batch_is_larger_where_there_would_be_too_many_steps_and_smaller_where_too_few(tokens, batch_tokens):
    length = Length.of(tokens, 256)
    assert length.batch_tokens == batch_tokens
    assert length.tokens <= max(tokens, batch_tokens) and length.steps <= MOST_STEPS
    assert length.warmup_steps < length.steps or length.steps == 1


def test_a_batch_is_at_least_a_row():
    assert Length.of(10_000, 8192) == Length(1, 8192, 8192)


@pytest.mark.parametrize("text_bytes", [100_000, 300_000, 1_000_000, 10_000_000, 10**10])
def test_enough_is_held_out_to_judge_by_and_never_much_of_the_text(text_bytes):
    fraction = held_out_fraction(text_bytes)
    assert fraction * text_bytes >= LEAST_HELD_OUT_BYTES
    assert fraction <= 0.25


def test_reading_ends_where_it_is_worth_little_by_the_tokens_and_by_a_plans_estimate():
    few, many = (Counted(512, each, 100.0, None) for each in (1.5, 5.0))
    assert worth_reading_tokens(many, 1e6) == pytest.approx(MOST_EPOCHS * 0.9e6 / 5)
    assert worth_reading_tokens(few, 1e6) == planned_tokens(512, 1e6) == pytest.approx(MOST_EPOCHS * 0.9e6 / 2)

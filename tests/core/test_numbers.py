"""Numbers, sizes, durations and money, each in one way."""

from __future__ import annotations

import math

import pytest

from athanor.core.numbers import compact, duration, memory, money, number, quantity, share, size


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0123, "0.0123"), (1.31, "1.31"), (151.4, "151"), (12345, "12,300"), (999.9, "1,000"), (0.99999, "1.00"),
     (-2.5, "−2.50"), (3e-7, "3.00e−07"), (0, "0"), (None, "–"), (math.nan, "not finite")],
)  # fmt: skip
def test_numbers_have_three_significant_digits(value, text):
    assert number(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(9999, "9,999"), (12_345, "12.3 k"), (999_999, "1.00 M"), (597_153_888, "597 M"), (10.24e9, "10.2 B")],
)
def test_counts_are_exact_below_ten_thousand(value, text):
    assert compact(value).replace("\u00a0", " ") == text


@pytest.mark.parametrize(
    ("value_s", "text"),
    [(0.12, "120 ms"), (4.2, "4.2 s"), (59.96, "1 min 00 s"), (134, "2 min 14 s"), (3599.7, "1 h 00 min"),
     (11_100, "3 h 05 min"), (86_399, "1 d 0 h"), (12.2 * 86_400, "12 d 5 h")],
)  # fmt: skip
def test_durations_carry_over_to_the_next_unit(value_s, text):
    assert duration(value_s).replace("\u00a0", " ") == text


def test_money_never_rounds_a_cost_to_nothing():
    amounts = (0, 0.001, 0.15, 1234.5, -2)
    assert [money(value) for value in amounts] == ["$0.00", "< $0.01", "$0.15", "$1,234.50", "−$2.00"]


def test_text_and_files_are_decimal_and_memory_is_binary():
    def spaced(texts):
        return [text.replace("\u00a0", " ") for text in texts]

    sizes = (0, 812, 999.9, 2_130_000, 2**30, 5e15)
    assert spaced(map(size, sizes)) == ["0 B", "812 B", "1.00 kB", "2.13 MB", "1.07 GB", "5.00 PB"]
    memories = (812, 12 * 2**10, 2**29, 79.2 * 2**30)
    assert spaced(map(memory, memories)) == ["812 B", "12.0 KiB", "512 MiB", "79.2 GiB"]
    assert spaced([quantity(1.49e9, "FLOPs"), quantity(1.49e9), quantity(42)]) == ["1.49 GFLOPs", "1.49 G", "42"]


def test_what_is_unknown_is_a_dash():
    assert {f(None) for f in (number, compact, share, duration, money)} == {"–"}


def test_an_overdrawn_budget_keeps_its_sign():
    assert duration(-134) == "−2\u00a0min 14\u00a0s"

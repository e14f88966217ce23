"""Numbers, durations, money and foreign text."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from athanor.core.text import clean, compact, duration, money, number, one_line, size


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
    assert [money(v) for v in (0, 0.001, 0.15, 1234.5)] == ["$0.00", "< $0.01", "$0.15", "$1,234.50"]
    assert size(812) == "812\u00a0B" and size(2_130_000) == "2.13\u00a0MB"


@given(st.text(st.characters()))
def test_clean_text_encodes_and_holds_no_control(text):
    printable = clean(text)
    printable.encode("utf-8")
    assert not any((ord(c) < 0x20 and c not in "\n\t") or 0x7F <= ord(c) < 0xA0 for c in printable)
    assert clean(printable) == printable
    assert len(one_line(text, 12)) <= 12


def test_ordinary_text_of_any_script_is_untouched():
    text = "naïve 数学 مرحبا 🙂\n\tx² ≠ y"
    assert clean(text) == text
    assert clean("a\x00\u202eb\ud800") == "a␀\ufffdb\ufffd"

"""What is offered in place of a wrong name."""

from __future__ import annotations

import pytest

from athanor.core.near import did_you_mean

KNOWN = ("auto", "cpu", "cuda", "RTX 5090", "evaluate", "adamw", "adamw-8bit")


@pytest.mark.parametrize(
    ("given", "meant"),
    [("rtx5090", "RTX 5090"), ("evalute", "evaluate"), ("eval", "evaluate"), ("Adam", "adamw"), ("CUDA", "cuda")],
)
def test_the_likest_name_is_offered_whatever_its_case_and_however_short_its_beginning(given, meant):
    assert did_you_mean(given, KNOWN) == f"did you mean {meant}? "


@pytest.mark.parametrize("given", ["gpu", "tpu", "a", "", "llama"])
def test_nothing_is_offered_that_only_looks_a_little_like_it(given):
    assert did_you_mean(given, KNOWN) == ""

"""How much is held out, in words, and when it is too little."""

import pytest

from athanor.core.numbers import size
from athanor.data.held_out import LEAST_BYTES, LEAST_DOCUMENTS, HeldOut

ENOUGH = {
    "held_out_documents": LEAST_DOCUMENTS,
    "held_out_bytes": LEAST_BYTES,
    "held_out_asked_bytes": 60_000,
    "held_out_copies": 0,
    "held_out_is_end": False,
}


def test_what_is_held_out_is_said_with_what_was_asked():
    held_out = HeldOut.of(ENOUGH)
    assert held_out is not None and held_out.problem is None
    assert str(held_out) == f"held out 8 documents: {size(64_000)} of {size(60_000)} asked for"
    assert str(HeldOut.of(ENOUGH | {"held_out_copies": 3})).endswith(", 3 further copies of them left out")
    assert str(HeldOut.of(ENOUGH | {"held_out_is_end": True})).startswith("held out the end of the one document")


@pytest.mark.parametrize(
    ("facts", "problem"),
    [
        ({"held_out_documents": 7}, "too little to compare models by (at least 8 documents and "),
        ({"held_out_bytes": LEAST_BYTES - 1}, "too little to compare models by"),
        ({"held_out_documents": 0, "held_out_bytes": 0}, "no document is short enough to be held out"),
        ({"held_out_documents": 1, "held_out_is_end": True}, "the end of the text it trains on"),
    ],
)
def test_too_little_has_a_reason_and_a_remedy(facts, problem):
    held_out = HeldOut.of(ENOUGH | facts)
    assert held_out is not None and held_out.problem is not None
    assert problem in held_out.problem and "give more" in held_out.problem


def test_nothing_is_said_where_none_was_asked_for_or_it_was_not_counted():
    assert HeldOut.of(ENOUGH | {"held_out_asked_bytes": 0}) is None
    assert HeldOut.of({"documents": 3, "held_out_documents": 1}) is None

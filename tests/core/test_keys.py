"""A key is a function of what decides a result, through one text for one value."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from athanor.core.keys import artifact_key, canonical_json
from athanor.core.recipe import Recipe

RECIPE = {"steps": 3}

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)


@given(VALUES)
def test_canonical_json_survives_a_round_trip_through_a_file(value):
    text = canonical_json(value)
    assert canonical_json(json.loads(text)) == text


def test_equal_values_have_one_text_and_a_field_without_value_is_as_if_it_were_not_there():
    class Thing(Recipe):
        one: int = 1
        other: int | None = None

    assert canonical_json({"b": {"y": 1, "x": 2}, "a": 0}) == canonical_json({"a": 0, "b": {"x": 2, "y": 1}})
    assert canonical_json(Thing()) == canonical_json({"one": 1}) != canonical_json(Thing(other=1))


@pytest.mark.parametrize("value", [{1, 2}, object(), float("nan"), {1: 2}, print, b"bytes"])
def test_what_has_no_canonical_form_is_refused(value):
    with pytest.raises((TypeError, ValueError)):
        canonical_json({"x": value})


def test_the_key_depends_on_stage_version_recipe_and_parents():
    base = ("stage", 1, RECIPE, {"a": "1"})
    others = [("other", 1, RECIPE, {"a": "1"}), ("stage", 2, RECIPE, {"a": "1"})]
    others += [("stage", 1, {"steps": 4}, {"a": "1"}), ("stage", 1, RECIPE, {"a": "2"})]
    assert len({artifact_key(*case) for case in [base, *others]}) == 5

"""How often a run reads its text: what is asked for, and what is said of it."""

from __future__ import annotations

import pytest

from athanor.data.data_recipe import MixtureRecipe
from athanor.data.epochs import drawn_tokens, epochs_text, repeats


def test_more_than_four_epochs_are_pointed_out_with_what_to_do():
    assert epochs_text({"math": 0.41, "code": 4.0}) == "epochs of each source: math 0.410, code 4.00"
    assert not repeats({"math": 0.41, "code": 4.0})
    text = epochs_text({"math": 0.41, "code": 38.0})
    assert "code 38.0; more than 4 of code" in text and "give more text" in text
    assert repeats({"math": 0.41, "code": 38.0})


def test_what_is_asked_of_a_source_is_its_share_of_all_tokens_whatever_it_anneals_to():
    drawn = drawn_tokens(MixtureRecipe(start={"b": 3, "a": 1}), steps=100, batch_tokens=40)
    assert drawn == pytest.approx({"a": 1000.0, "b": 3000.0})
    annealed = MixtureRecipe(start={"a": 1, "b": 1}, end={"a": 1, "b": 0}, anneal_fraction=1.0)
    drawn = drawn_tokens(annealed, steps=1000, batch_tokens=10)
    assert sum(drawn.values()) == pytest.approx(10_000) and drawn["a"] == pytest.approx(7500, rel=0.01)

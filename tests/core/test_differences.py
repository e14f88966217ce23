"""Where recipes differ, however deep and however many there are."""

from __future__ import annotations

from athanor.core.differences import differing


def test_only_leaves_that_are_not_all_equal_are_named_in_their_order():
    first = {"model": {"family": "a", "width": 8}, "train": {"lr": 1e-3, "steps": 5}}
    other = {"model": {"family": "b", "width": 8}, "train": {"lr": 1e-3, "steps": 6}}
    third = {"model": {"family": "a", "width": 8}, "train": {"lr": 1e-3, "steps": 5}, "seed": 1}
    assert list(differing(first, other, third).items()) == [
        ("model.family", ("a", "b", "a")),
        ("train.steps", (5, 6, 5)),
        ("seed", (None, None, 1)),
    ]


def test_what_is_not_there_is_none_and_none_is_not_there():
    assert differing({"hydra": None}, {}) == {}
    assert differing({"mix": {"math": 0.5}}, {"mix": {}}) == {"mix.math": (0.5, None), "mix": (None, {})}
    assert differing({}, {}) == {}

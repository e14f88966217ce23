"""What makes a row noise: each threshold alone, at its edge, on rows whose measures are known by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from athanor.data.data_recipe import FilterRecipe
from athanor.data.filter import RowFilter
from athanor.data.tokenizer import load_tokenizer

OFF = {"max_token_share": 1.0, "min_entropy_nats": 0.0, "max_broken_share": 1.0}


def test_measures_of_rows_known_by_hand(tokenizer_dir):
    tokenizer = load_tokenizer(tokenizer_dir)
    judge = RowFilter(FilterRecipe(), tokenizer)
    share_B, entropy_B, broken_B = judge.measures(np.array([[5, 5, 5, 5], [5, 5, 6, 7], [5, 6, 7, 8]]))
    assert share_B.tolist() == [1.0, 0.5, 0.25]
    assert entropy_B == pytest.approx([0.0, 1.5 * math.log(2), math.log(4)])
    assert broken_B.tolist() == [0.0] * 3
    pieces = tokenizer.encode("a\ufffdb")
    assert judge.measures(np.array([pieces]))[2][0] == pytest.approx((len(pieces) - 2) / len(pieces))
    assert judge.measures(np.array([[tokenizer.eos_id] * 3]))[2][0] == 0.0


@pytest.mark.parametrize("name", OFF)
def test_each_threshold_rejects_alone_and_only_beyond_its_value(name, tokenizer_dir):
    tokenizer = load_tokenizer(tokenizer_dir)
    ids_BT = np.array([[5] * 6 + [6, 7], tokenizer.encode("\ufffd" * 4)[:8]])
    measure_B = dict(zip(OFF, RowFilter(FilterRecipe(), tokenizer).measures(ids_BT), strict=True))[name]
    row = int(np.argmin(measure_B) if name.startswith("min") else np.argmax(measure_B))
    worse = 0.01 if name.startswith("min") else -0.01

    def noisy(threshold: float) -> list[bool]:
        return RowFilter(FilterRecipe.model_validate(OFF | {name: threshold}), tokenizer).noisy(ids_BT).tolist()

    assert noisy(float(measure_B[row])) == [False, False]
    assert noisy(float(measure_B[row]) + worse)[row]
    assert not noisy(float(measure_B[row]) + worse)[1 - row]

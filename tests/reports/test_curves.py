"""From log rows to series."""

from __future__ import annotations

import math

import numpy as np

from athanor.data.data_recipe import MixtureRecipe
from athanor.reports.curves import asked_shares, held_out, named_series, realised_rows, series, smoothed, thinned


def test_a_step_run_again_counts_once_with_its_last_row():
    rows = [{"kind": "step", "step": s, "loss": x} for s, x in ((1, 5.0), (2, 4.0), (3, 9.0), (2, 3.5), (3, 3.0))]
    steps, loss = series(rows, "loss")
    assert steps.tolist() == [1, 2, 3] and loss.tolist() == [5.0, 3.5, 3.0]


def test_values_that_are_not_finite_stay_gaps_and_out_of_the_mean():
    values = np.array([math.nan, 2.0, math.inf, 2.0])
    assert np.isnan(smoothed(values, 5)[0]) and smoothed(values, 5)[1:].tolist() == [2.0, 2.0, 2.0]
    rows = [{"kind": "step", "step": 1, "loss": None}, {"kind": "step", "step": 2}]
    assert np.isnan(series(rows, "loss")[1]).all()


def test_thinning_keeps_every_spike():
    values = np.zeros(100_000)
    values[[777, 50_001]] = 40.0, -3.0
    steps, kept = thinned(np.arange(100_000), values)
    assert len(kept) <= 1000 and dict(zip(steps, kept, strict=True)).items() >= {(777, 40.0), (50_001, -3.0)}


def test_series_that_begin_late_keep_their_own_steps():
    rows = [{"kind": "step", "step": 1, "aux": {}}, {"kind": "step", "step": 2, "aux": {"balance": 0.5}}]
    steps, values = named_series(rows, "aux")["balance"]
    assert steps.tolist() == [2] and values.tolist() == [0.5]
    rows = [{"kind": "eval", "step": 5, "held_out": {"math": {"loss": 1.0, "bits_per_byte": 0.5, "tokens": 9}}}]
    assert held_out(rows)["math"][1].tolist() == [0.5]


def test_asked_and_realised_shares_name_the_same_sources():
    mixture = MixtureRecipe(start={"b": 3, "a": 1}, end={"b": 1, "a": 1}, anneal_fraction=0.5)
    asked = asked_shares(mixture, 10)
    assert asked["a"][0] == 0.25 and asked["a"][-1] == 0.5 and np.allclose(asked["a"] + asked["b"], 1)
    rows = [{"kind": "step", "step": 1, "mix": {"b": 3, "a": 1}}, {"kind": "step", "step": 2, "mix": {"b": 4}}]
    assert realised_rows(rows)["a"][1].tolist() == [1, 0]

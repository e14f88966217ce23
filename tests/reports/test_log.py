"""From log rows to series."""

from __future__ import annotations

import numpy as np

from athanor.data.data_recipe import MixtureRecipe
from athanor.reports.log import Log, Mix, asked_shares


def test_a_step_run_again_counts_once_with_its_last_row():
    rows = [{"kind": "step", "step": s, "loss": x} for s, x in ((1, 5.0), (2, 4.0), (3, 9.0), (2, 3.5), (3, 3.0))]
    steps, loss = Log(rows).loss
    assert steps.tolist() == [1, 2, 3] and loss.tolist() == [5.0, 3.5, 3.0]


def test_values_that_are_none_or_missing_are_gaps():
    rows = [{"kind": "step", "step": 1, "loss": None}, {"kind": "step", "step": 2}]
    assert np.isnan(Log(rows).loss[1]).all()


def test_series_that_begin_late_keep_their_own_steps():
    rows = [{"kind": "step", "step": 1, "aux": {}}, {"kind": "step", "step": 2, "aux": {"balance": 0.5}}]
    steps, values = Log(rows).auxiliary["balance"]
    assert steps.tolist() == [2] and values.tolist() == [0.5]
    rows = [{"kind": "eval", "step": 5, "held_out": {"math": {"loss": 1.0, "bits_per_byte": 0.5, "tokens": 9}}}]
    log = Log(rows)
    assert log.bits_per_byte["math"][1].tolist() == [0.5] and log.held_out_loss["math"][1].tolist() == [1.0]


def test_asked_and_realised_shares_name_the_same_sources():
    mixture = MixtureRecipe(start={"b": 3, "a": 1}, end={"b": 1, "a": 1}, anneal_fraction=0.5)
    asked = asked_shares(mixture, 10)
    assert asked["a"][0] == 0.25 and asked["a"][-1] == 0.5 and np.allclose(asked["a"] + asked["b"], 1)
    rows = [{"kind": "step", "step": 1, "mix": {"b": 3, "a": 1}}, {"kind": "step", "step": 2, "mix": {"b": 4}}]
    mix = Mix.of(Log(rows), mixture, 10)
    assert mix is not None
    assert (mix.step_K.tolist(), mix.rows_K["a"].tolist(), mix.total_K.tolist()) == ([1, 2], [1, 0], [4, 4])


def test_a_run_that_never_said_what_it_read_has_no_mix():
    assert Mix.of(Log([{"kind": "step", "step": 1, "mix": {}}]), None, 10) is None

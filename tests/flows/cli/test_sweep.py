"""A sweep is planned as a whole and run one after the other, its budget shared out evenly."""

from __future__ import annotations

import json

import pytest

from athanor.flows.cli import run_flow

SMALL = ("--set", "pretrain.steps=40", "--set", "pretrain.warmup_steps=10", "--set", "runtime.device=cpu")
SWEEP = ("--sweep", "pretrain.peak_lr=1e-3,3e-3")


def test_what_the_runs_share_counts_once_in_the_plan(athanor):
    lines = athanor("plan", "quickstart", "--only", "pretrain", *SMALL, *SWEEP, "--json").stdout.splitlines()
    plans = [json.loads(line) for line in lines]
    each = {stage["artifact"]: stage["wall_s"] for plan in plans for stage in plan["stages"]}
    assert len(plans) == 2 and len(each) == len(plans[0]["stages"]) + 1, "the data are shared, the models are not"
    page = athanor("plan", "quickstart", "--only", "pretrain", *SMALL, *SWEEP).stdout
    assert "2 runs" in page and "pretrain.peak_lr=1e-3" in page and "pretrain.peak_lr=3e-3" in page
    assert page.count("total ") == 1


@pytest.fixture
def asked(monkeypatch):
    """The presets that flows are run on."""
    presets = []
    monkeypatch.setattr(run_flow, "run_flow", lambda flow, preset, *_: presets.append(preset))
    return presets


def test_each_value_is_run_and_the_budget_is_shared_out(athanor, asked):
    done = athanor("run", "quickstart", *SMALL, *SWEEP, "--budget-hours", "3")
    assert done.returncode == 0, done.stderr
    assert [preset.pretrain.peak_lr for preset in asked] == [1e-3, 3e-3]
    assert {preset.runtime.budget_hours for preset in asked} == {1.5}
    assert "run 1 of 2: pretrain.peak_lr=1e-3" in done.stderr
    assert "athanor runs compare pretrain/polychromatic-" in done.stderr.replace("sft/", "pretrain/")


def test_a_value_that_cannot_be_is_refused_before_the_first_run(athanor, asked):
    done = athanor("run", "quickstart", "--sweep", "pretrain.peak_lr=1e-3,fast")
    assert done.returncode == 2 and "pretrain.peak_lr='fast'" in done.stderr
    assert asked == []

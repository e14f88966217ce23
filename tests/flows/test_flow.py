"""A flow is made without the form of its parameters, which a deployment draws whole, and is checked before it works."""

from __future__ import annotations

import json

import pytest
from prefect.utilities.callables import parameter_schema

from athanor.core.errors import UserError
from athanor.flows.data import data_flow
from athanor.flows.flow import over_preset
from athanor.tasks.trainer.optimizers.kind import OPTIMIZERS


def test_the_form_of_a_deployment_offers_every_kind_though_the_flow_was_made_without_it():
    form = parameter_schema(data_flow).model_dump_for_openapi()
    assert list(form["properties"]) == ["preset", "rebuild", "verify"]
    assert json.dumps(list(OPTIMIZERS)) in json.dumps(form)
    assert not data_flow.parameters.definitions


def test_a_flow_that_a_worker_runs_is_checked_as_the_command_checks_it(small_preset, monkeypatch):
    checked = []

    def check_ready(preset, flow, rebuild):
        checked.append((preset.name, flow, rebuild))
        raise UserError("data.sources.x: gated")

    monkeypatch.setattr("athanor.flows.plan.plan.check_ready", check_ready)
    works = []
    flow, preset = over_preset("data")(works.append), small_preset()
    flow.fn(preset)
    assert (len(works), checked) == (1, []), "`athanor run` has checked it already"
    monkeypatch.setenv("PREFECT__RUNTIME__DEPLOYMENT__ID", "0" * 32)
    with pytest.raises(UserError, match="gated"):
        flow.fn(preset, rebuild=True)
    assert (len(works), checked) == (1, [(preset.name, "data", True)])

"""A flow is made without the form of its parameters, which a deployment draws whole."""

from __future__ import annotations

import json

from prefect.utilities.callables import parameter_schema

from athanor.flows.data import data_flow
from athanor.tasks.trainer.optimizers.kind import OPTIMIZERS


def test_the_form_of_a_deployment_offers_every_kind_though_the_flow_was_made_without_it():
    form = parameter_schema(data_flow).model_dump_for_openapi()
    assert list(form["properties"]) == ["preset", "rebuild", "verify"]
    assert json.dumps(list(OPTIMIZERS)) in json.dumps(form)
    assert not data_flow.parameters.definitions

"""A flow is made without the form of its parameters, which a deployment draws whole, and asks the hub what it must."""

from __future__ import annotations

import json
import os
import subprocess
import sys

from loopback_hub import REVISION, serving
from prefect.utilities.callables import parameter_schema

from athanor.flows.data import data_flow
from athanor.tasks.trainer.optimizers.kind import OPTIMIZERS

# The flow as a deployment starts it, with no command line before it: at the hub; again, with the hub gone; in a home
# that has never seen the hub.
RUNS = """
import json, os, sys
from prefect.testing.utilities import prefect_test_harness
from athanor.core.store import Store
from athanor.flows.data import data_flow
from athanor.flows.plan import preflight
from athanor.flows.plan.plan import make_plan
from athanor.flows.presets.preset import load_preset

asked, hub_access = [], preflight.hub_access
preflight.hub_access = lambda *repository: asked.append(repository) or hub_access(*repository)
preset = load_preset("quickstart", json.loads(sys.argv[1]))

def run():
    asked.clear()
    state = data_flow(preset, return_state=True)
    built = {a.name: a.manifest["recipe"].get("identity") for a in Store().artifacts() if a.label == "math"}
    return {"ended": state.name, "message": str(state.message), "asked": len(asked), "math": built}

with prefect_test_harness(server_startup_timeout=120):
    runs = [run()]
    os.environ["HF_ENDPOINT"] = "http://127.0.0.1:9"
    runs += [run(), {"states": [stage.state for stage, _ in make_plan(preset, "data", timing=False).stages]}]
    os.environ["ATHANOR_HOME"] += "-other"
    runs += [run()]
print(json.dumps(runs))
"""
SETTINGS = (
    "data.sources.math={hub: o/open, held_out_fraction: 0.2}", "data.sources.stem.max_documents=2",
    "data.sources.code.max_documents=2", "tokenizer.vocab_size=300", "tokenizer.train_bytes=2000", "sft=null",
)  # fmt: skip


def test_a_flow_that_no_command_started_reads_the_hub_at_a_commit_and_asks_nothing_of_what_is_built(tmp_path):
    clean = {
        name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING", "http", "HTTP"))
    }
    with serving() as address:
        done = subprocess.run(
            [sys.executable, "-c", RUNS, json.dumps(SETTINGS)],
            env=clean | {"HF_ENDPOINT": address, "HF_HOME": str(tmp_path / "hf")},
            capture_output=True, text=True, timeout=300,
        )  # fmt: skip
    assert done.returncode == 0, done.stderr
    first, again, plan, elsewhere = json.loads(done.stdout.splitlines()[-1])
    assert (first["ended"], first["asked"]) == ("Completed", 1), first
    assert [identity["commit"] for identity in first["math"].values() if identity] == [REVISION]
    assert (again["ended"], again["asked"]) == ("Completed", 0) and again["math"] == first["math"]
    assert set(plan["states"]) == {"cached"}, "the keys are those that `athanor run` and `athanor plan` make"
    assert elsewhere["ended"] == "Failed" and not elsewhere["math"]
    assert "data.sources.math: hub o/open: the hub at 127.0.0.1:9 cannot be reached" in elsewhere["message"]
    assert "Traceback" not in done.stderr


def test_the_form_of_a_deployment_offers_every_kind_though_the_flow_was_made_without_it():
    form = parameter_schema(data_flow).model_dump_for_openapi()
    assert list(form["properties"]) == ["preset", "rebuild", "verify"]
    assert json.dumps(list(OPTIMIZERS)) in json.dumps(form)
    assert not data_flow.parameters.definitions

"""One deployment of every flow for every preset, as `athanor prepare-server` makes them and as `prefect.yaml`.

`python -m athanor.flows.server.deployments > prefect.yaml` after a preset has changed; a test compares the two.

Invariant: a deployment names no folder, no machine and no path, so it runs wherever a worker is started, and importing
its flow does not depend on what lies there (see worker_folder.py). `prefect deploy` itself imports flows with the
working directory first on the path; `prepare-server` does not, and needs no file.
"""

from __future__ import annotations

import importlib
from typing import Any

import yaml
from prefect.client.orchestration import SyncPrefectClient
from prefect.utilities.callables import parameter_schema

from athanor.flows.presets.names import preset_names
from athanor.flows.presets.preset import load_preset
from athanor.flows.server import worker_folder
from athanor.tasks.parts import FLOWS

WORK_POOL = "athanor"
PULL = [{f"{worker_folder.__name__}.{worker_folder.note_worker_folder.__name__}": {}}]
HEADER = """\
# Deployments of every flow for every preset, the same that `athanor prepare-server` makes: a start for schedules and
# work pools of your own, with `prefect deploy`. Written by `python -m athanor.flows.server.deployments > prefect.yaml`
# from the presets in flows/presets/.
"""


def deployments() -> list[dict[str, Any]]:
    """Every deployment in the fields of `prefect.yaml`. Those of one preset share its `parameters`."""
    parameters = {
        name: {"preset": load_preset(name).model_dump(mode="json", exclude_none=True)} for name in preset_names()
    }
    return [
        {
            "name": preset,
            "entrypoint": f"athanor.flows.{flow}:{flow}_flow",
            "parameters": parameters[preset],
            "work_pool": {"name": WORK_POOL},
        }
        for preset in parameters
        for flow in FLOWS
    ]


def prefect_yaml() -> str:
    """The text of `prefect.yaml`. A preset is written once and referred to by its other deployments."""
    fields = {"name": "athanor", "pull": PULL, "deployments": deployments()}
    return HEADER + yaml.safe_dump(fields, sort_keys=False, width=120)


def deploy(client: SyncPrefectClient) -> int:
    """Create every deployment, or bring it up to date; returns how many there are."""
    described = deployments()
    flows = {fields["entrypoint"]: _flow(fields["entrypoint"]) for fields in described}
    schemas = {entrypoint: parameter_schema(flow).model_dump_for_openapi() for entrypoint, flow in flows.items()}
    ids = {entrypoint: client.create_flow(flow) for entrypoint, flow in flows.items()}
    for fields in described:
        entrypoint = fields["entrypoint"]
        client.create_deployment(
            ids[entrypoint],
            fields["name"],
            entrypoint=entrypoint,
            parameters=fields["parameters"],
            parameter_openapi_schema=schemas[entrypoint],
            description=flows[entrypoint].description,
            version=flows[entrypoint].version,
            work_pool_name=fields["work_pool"]["name"],
            pull_steps=PULL,
        )
    return len(described)


def _flow(entrypoint: str) -> Any:
    module, _, name = entrypoint.partition(":")
    return getattr(importlib.import_module(module), name)


if __name__ == "__main__":
    print(prefect_yaml(), end="")

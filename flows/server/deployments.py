"""`prefect.yaml`: one deployment of every flow for every preset, written from the presets.

`python -m athanor.flows.server.deployments > prefect.yaml` after a preset has changed; a test compares the two.
"""

from __future__ import annotations

from typing import Any

import yaml

from athanor.flows.presets.preset import load_preset, preset_names
from athanor.tasks.parts import FLOWS

WORK_POOL = "athanor"
HEADER = """\
# Deployments of every flow for every preset. Written by `python -m athanor.flows.server.deployments > prefect.yaml`;
# edit the presets in flows/presets/ instead. `prefect deploy --all` reads it, `prefect deployment run
# pretrain-flow/quickstart` runs one.
"""


def prefect_yaml() -> str:
    """The text of `prefect.yaml`. A preset is written once and referred to by its other deployments."""
    parameters = {
        name: {"preset": load_preset(name).model_dump(mode="json", exclude_none=True)} for name in preset_names()
    }
    deployments: list[dict[str, Any]] = [
        {
            "name": preset,
            "entrypoint": f"athanor.flows.{flow}:{flow}_flow",
            "parameters": parameters[preset],
            "work_pool": {"name": WORK_POOL},
        }
        for preset in parameters
        for flow in FLOWS
    ]
    return HEADER + yaml.safe_dump({"name": "athanor", "deployments": deployments}, sort_keys=False, width=120)


if __name__ == "__main__":
    print(prefect_yaml(), end="")

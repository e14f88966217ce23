"""The deployments are those of the presets, wherever they are made; tests/test_front_page.py runs them."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

import yaml

from athanor.flows.server.deployments import PULL, deployments, prefect_yaml

ROOT = Path(__file__).parent.parent.parent.parent


def test_prefect_yaml_is_what_the_presets_say():
    assert (ROOT / "prefect.yaml").read_text() == prefect_yaml()


def test_a_deployment_names_no_folder_but_takes_its_workers():
    written = yaml.safe_load(prefect_yaml())
    assert written["pull"] == PULL
    (name,) = PULL[0]
    module, _, step = name.rpartition(".")
    assert callable(getattr(import_module(module), step))
    for fields in (*written["deployments"], *deployments()):
        assert fields.keys() == {"name", "entrypoint", "parameters", "work_pool"}
        assert fields["entrypoint"].startswith("athanor.flows.")

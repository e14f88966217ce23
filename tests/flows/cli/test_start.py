"""What a command loads before it answers: the packages that take long to import are loaded where they are needed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from athanor.flows.plan.survey import Survey

HEAVY = {"torch", "prefect", "numpy", "matplotlib", "pyarrow", "datasets", "transformers", "tokenizers", "lm_eval",
         "wandb", "fastapi", "sqlalchemy"}  # fmt: skip
# Runs `athanor` and writes down what is loaded at its end, and what was when the Prefect server was started.
RECORDED = """
import atexit, json, sys
from pathlib import Path
from athanor.flows.cli.main import main
from athanor.flows.server.temporary import TemporaryServer

folder, sys.argv[1:] = sys.argv[1], sys.argv[2:]

def note(when):
    Path(folder, f"{when}.json").write_text(json.dumps(sorted(sys.modules)))

start = TemporaryServer.__init__

def noted_start(server, verbose):
    note("server")
    start(server, verbose)

TemporaryServer.__init__ = noted_start
atexit.register(note, "end")
main()
"""


@pytest.fixture
def loaded(tmp_path):
    """Runs `athanor` in a process of its own; returns the modules loaded at the end and when the server started."""

    def run(*arguments: str) -> tuple[set[str], set[str] | None]:
        command = [sys.executable, "-c", RECORDED, str(tmp_path), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stdout + done.stderr
        at_start = tmp_path / "server.json"
        end = set(json.loads((tmp_path / "end.json").read_text()))
        return end, set(json.loads(at_start.read_text())) if at_start.exists() else None

    return run


@pytest.fixture
def everything_cached(small_preset, publish, tmp_path) -> Path:
    """The file of a small preset of which everything is in the store."""
    preset = small_preset()
    for stage in Survey(preset).needed_by("lifecycle"):
        publish(stage)
    file = tmp_path / "small.yaml"
    file.write_text(yaml.safe_dump(preset.model_dump(mode="json", exclude_none=True)))
    return file


def test_help_loads_neither_prefect_nor_torch_nor_pydantic(loaded):
    modules, _ = loaded("--help")
    assert not modules & {*HEAVY, "pydantic", "yaml"}


@pytest.mark.parametrize("arguments", [("presets",), ("presets", "quickstart"), ("artifacts",)])
def test_looking_at_presets_and_artifacts_loads_nothing_heavy(loaded, arguments):
    modules, _ = loaded(*arguments)
    assert not modules & HEAVY


def test_a_plan_loads_torch_alone_without_its_compiler(loaded, everything_cached):
    modules, _ = loaded("plan", str(everything_cached))
    assert modules & HEAVY <= {"torch", "numpy", "tokenizers"}
    assert not modules & {"torch._dynamo", "torch.distributed.checkpoint", "sympy"}


def test_a_run_that_finds_everything_loads_prefect_alone_and_only_after_its_server_started(loaded, everything_cached):
    at_the_end, as_the_server_started = loaded("run", str(everything_cached), "--only", "interpret")
    assert at_the_end & HEAVY == {"prefect", "fastapi"}
    assert as_the_server_started is not None and not as_the_server_started & HEAVY

"""A real Prefect server, worker and deployment run the flows, as they do for a user."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from athanor.flows.presets.preset import load_preset
from athanor.flows.server.deployments import prefect_yaml

ROOT = Path(__file__).parent.parent.parent
BIN = Path(sys.executable).parent
SMALL = (
    "data.sources.math.max_documents=300",
    "data.sources.stem.max_documents=3",
    "data.sources.code.max_documents=3",
    "tokenizer.vocab_size=300",
)


def test_prefect_yaml_is_what_the_presets_say():
    assert (ROOT / "prefect.yaml").read_text() == prefect_yaml()


class Prefect:
    """A Prefect installation of its own: home folder, server on a free loopback port, command line."""

    def __init__(self, home: Path):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.environment = {
            **os.environ,
            "PREFECT_HOME": str(home),
            "PREFECT_API_URL": f"http://127.0.0.1:{self.port}/api",
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "PREFECT_CLI_PROMPT": "false",
        }
        self.processes: list[subprocess.Popen] = []

    def start(self, *command: str) -> subprocess.Popen:
        """Start a long-running `prefect` command."""
        process = subprocess.Popen(
            [BIN / "prefect", *command],
            env=self.environment,
            cwd=ROOT,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        self.processes.append(process)
        return process

    def start_server(self) -> subprocess.Popen:
        """Start the server and wait until it answers."""
        server = self.start("server", "start", "--host", "127.0.0.1", "--port", str(self.port))
        for _ in range(300):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return server
            assert server.poll() is None
            time.sleep(0.2)
        raise AssertionError("the server did not start")

    def run(self, *command: str | Path) -> str:
        """Run a command of the environment to its end and return what it printed."""
        done = subprocess.run(
            [BIN / command[0], *command[1:]],
            env=self.environment,
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        return done.stdout

    def stop(self) -> None:
        """Stop everything this test started, newest first."""
        for process in reversed(self.processes):
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self.processes.clear()


@pytest.fixture
def prefect(tmp_path):
    installation = Prefect(tmp_path / "prefect")
    installation.start_server()
    yield installation
    installation.stop()


@pytest.mark.slow
def test_a_deployment_runs_on_a_worker_and_its_artifacts_outlive_the_database(prefect, private_home):
    assert "work pool athanor" in prefect.run("athanor", "prepare-server")
    assert "nothing to do" in prefect.run("athanor", "prepare-server")
    prefect.run("prefect", "deploy", "--name", "data-flow/quickstart")
    prefect.start("worker", "start", "--pool", "athanor")

    preset = load_preset("quickstart", SMALL)
    parameters = json.dumps({"preset": preset.model_dump(mode="json", exclude_none=True)})
    started = prefect.run("prefect", "deployment", "run", "data-flow/quickstart", "--params", parameters, "--watch")
    assert "Completed" in started
    built = sorted(path.name for path in (private_home / "store" / "tokenize").iterdir() if path.name[0] != ".")
    assert len(built) == 3

    prefect.stop()
    shutil.rmtree(prefect.environment["PREFECT_HOME"])
    prefect.start_server()
    file = private_home / "small.yaml"
    file.write_text(yaml.safe_dump(preset.model_dump(mode="json", exclude_none=True)))
    prefect.run("athanor", "run", str(file), "--only", "data")
    runs = json.loads(prefect.run(sys.executable, "-c", LIST_STATES))
    assert runs and set(runs) == {"Cached"}


LIST_STATES = """
import json
from prefect.client.orchestration import get_client
with get_client(sync_client=True) as client:
    print(json.dumps([run.state_name for run in client.read_task_runs()]))
"""

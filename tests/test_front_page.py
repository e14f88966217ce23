"""The README's commands, read out of it and run as a stranger would: from the wheel, in a folder full of traps.

The folder holds packages and modules named as our folders, our dependencies and the package itself are, each raising
when it is imported. The commands of the section on Prefect come first, on a real server and worker; what the worker
has built is then found by those of the section on use.
"""

from __future__ import annotations

import json
import re
import shlex
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest
from prefect.settings import PREFECT_API_URL, temporary_settings
from stranger import ROOT, build_wheel, clean_environment, make_clone, make_environment

from athanor.core.store import Artifact, Store
from athanor.flows.presets.names import preset_names
from athanor.flows.presets.preset import load_preset
from athanor.flows.server.prepare import prepare_server
from athanor.tasks.parts import FLOWS
from athanor.tasks.trainer.records.ledger import ledger_total

TRAP_PACKAGES = ("data", "models", "tasks", "flows", "reports", "kernels", "core", "athanor", "wandb")
TRAP_MODULES = ("evaluate", "tokenizers", "torch", "prefect", "datasets", "yaml", "numpy", "safetensors", "lm_eval")
PROGRAMS = ("athanor", "prefect", "make", "pip", "git", "cd", "export", ".", "python", "python3", "docker")

# What makes a run short enough for a test: added to every command that runs or plans a preset.
TAKES_SETTINGS = r"^athanor (run|plan) (quickstart|mine\.yaml)"
SMALL = (
    "model.d_model=32", "model.n_layers=2", "model.n_heads=2", "model.n_kv_heads=1", "model.head_dim=16",
    "model.d_ff=64", "data.sources.math.max_documents=300", "data.sources.stem.max_documents=6",
    "data.sources.code.max_documents=6", "tokenizer.vocab_size=400", "tokenizer.train_bytes=50000",
    "pretrain.steps=6", "pretrain.batch_tokens=512", "pretrain.warmup_steps=2", "pretrain.eval_every_steps=3",
    "pretrain.eval_tokens=1024", "sft.source.max_documents=100", "sft.train.steps=4", "sft.train.batch_tokens=512",
    "sft.train.warmup_steps=2", "sft.train.eval_every_steps=2", "sft.train.eval_tokens=1024",
    "evaluate.tasks.sums-and-differences-to-20=null", "evaluate.tasks.word-problems-choice=null",
    "evaluate.tasks.word-problems.limit=4", "evaluate.tasks.bits-per-byte.limit=4", "interpret.tokens=512",
    "report.samples=2", 'runtime.wandb="off"',
)  # fmt: skip
SETTINGS = " ".join(f"--set {shlex.quote(setting)}" for setting in SMALL)
TEXT = "FILE.jsonl"

# How a command of the README becomes one that can be run here: patterns, applied in turn.
SUBSTITUTIONS = (
    (r"\[(.+?)\]", r"\1"),  # what may be left out is tried
    (r"\bRUN RUN\.\.\.", "pretrain/polychromatic sft/polychromatic"),
    (r"\b(RUN|ARTIFACT)\b", "sft/polychromatic"),
    (r"\bPRESET\b", "quickstart"),
    (r"\bSIZE\b", "polychromatic-600m"),
    (r"\bFILE$", "figure.png"),
    (r"^(athanor documents \S+) \w+", r"\1 2"),
    (r"^(athanor run .*FILE\.jsonl.*)$", r"\1 --only data"),
)

# What is not run here, and why.
NOT_RUN = (
    (r"^make run$", "`athanor run quickstart`, below, after an installation from a package index"),
    (r"^make test$", "is what runs this test"),
    (r"^export PREFECT_API_URL=", "given to every command, with a free port"),
    (r"^\. \.venv/bin/activate$", "given to every command as its PATH"),
    (r"^athanor run polychromatic-600m", "needs gated text, a GPU and days; tests/flows/plan plan it"),
    (r"^athanor plan polychromatic-600m", "asks the hub; tests/flows/plan/test_plan.py"),
    (r"runtime\.(ranks|nodes)=", "tests/tasks/trainer/engines/test_engines.py"),
    (r"^athanor (im|ex)port-checkpoint", "needs a published checkpoint; tests/flows/cli/test_model_commands.py"),
)


def commands(readme: str) -> dict[str, list[str]]:
    """Section -> the commands in its fenced blocks, without their comments. A line may hold several, widely spaced."""
    found: dict[str, list[str]] = {}
    for section in re.split(r"^## ", readme, flags=re.MULTILINE):
        title = section.partition("\n")[0]
        for block in re.findall(r"^```(?:sh)?\n(.*?)^```", section, flags=re.MULTILINE | re.DOTALL):
            lines = [re.sub(r"(^|\s+)# .*", "", line).strip() for line in block.splitlines()]
            parts = [part for line in lines if line for part in re.split(r"\s{2,}(?=(?:athanor|prefect) )", line)]
            if parts and _program(parts[0]) in PROGRAMS:
                found.setdefault(title, []).extend(parts)
    return found


def _program(command: str) -> str:
    return next((word for word in command.split() if "=" not in word), "")


README = commands((ROOT / "README.md").read_text())
PYTHON = re.findall(r"^```python\n(.*?)^```", (ROOT / "README.md").read_text(), flags=re.MULTILINE | re.DOTALL)
EVERY = [command for section in README.values() for command in section]
PREFECT = [
    command for command in EVERY if _program(command) == "prefect" or command.startswith("athanor prepare-server")
]


DEPLOY = "prefect deploy --all"


def reason(command: str) -> str | None:
    """Why a command of the README is not run; None if it is."""
    return next((why for pattern, why in NOT_RUN if re.search(pattern, command)), None)


USE = [command for command in EVERY if command not in PREFECT and reason(command) is None]


@dataclass
class Stranger:
    """Someone with an environment, a folder full of traps and a terminal in it."""

    binaries: Path
    folder: Path
    environment: dict[str, str]
    background: list[subprocess.Popen] = field(default_factory=list)

    def elsewhere(self, folder: Path, **variables: str) -> Stranger:
        """The same person in another folder full of traps, with other environment variables."""
        return Stranger(self.binaries, set_traps(folder), {**self.environment, **variables})

    def _words(self, command: str) -> tuple[list[str], dict[str, str]]:
        words = shlex.split(command)
        variables = dict(word.split("=", 1) for word in words[: words.index(_program(command))])
        program, *arguments = words[len(variables) :]
        return [str(self.binaries / program), *arguments], {**self.environment, **variables}

    def run(self, command: str, folder: Path | None = None) -> str:
        """Run a command to its end and return what it printed; the test fails if it fails."""
        words, environment = self._words(command)
        done = subprocess.run(
            words, cwd=folder or self.folder, env=environment, capture_output=True, text=True, timeout=300
        )
        assert done.returncode == 0, f"{command}\n{done.stdout[-3000:]}{done.stderr[-3000:]}"
        return done.stdout + done.stderr

    def start(self, command: str) -> None:
        """Start a command that stays; `stop` ends it."""
        words, environment = self._words(command)
        with open(self.folder.parent / f"{len(self.background)}.log", "wb") as log:
            process = subprocess.Popen(words, cwd=self.folder, env=environment, stdout=log, stderr=log)
        self.background.append(process)

    def stop(self) -> None:
        """End what was started, newest first, as Ctrl-C does."""
        for process in reversed(self.background):
            process.send_signal(signal.SIGINT)
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def new_files(self) -> set[str]:
        """What lies in the folder beside the traps."""
        return {path.name for path in self.folder.iterdir()} - {*TRAP_PACKAGES, *(f"{m}.py" for m in TRAP_MODULES)}


def set_traps(folder: Path) -> Path:
    """Make a folder in which every import of a name of ours or of a dependency raises; returns it."""
    folder.mkdir(parents=True)
    traps = [folder / f"{name}.py" for name in TRAP_MODULES] + [folder / n / "__init__.py" for n in TRAP_PACKAGES]
    for trap in traps:
        trap.parent.mkdir(exist_ok=True)
        trap.write_text("raise RuntimeError(f'imported from the working directory: {__file__}')\n")
    return folder


@pytest.fixture(scope="module")
def clone(tmp_path_factory) -> Path:
    return make_clone(tmp_path_factory.mktemp("clone"))


@pytest.fixture(scope="module")
def stranger(clone, tmp_path_factory) -> Stranger:
    """Has the wheel alone, which is asserted; knows no server."""
    place = tmp_path_factory.mktemp("stranger")
    binaries = make_environment(build_wheel(clone, place), place / "environment")
    variables = {"PREFECT_HOME": str(place / "prefect"), "PREFECT_CLI_PROMPT": "false", "WANDB_MODE": "offline"}
    found = Stranger(binaries, set_traps(place / "folder"), clean_environment(binaries, **variables))
    where = "import athanor.core.store, athanor.flows.cli.main as m; print(m.__file__, list(athanor.__path__))"
    told = subprocess.run([binaries / "python", "-P", "-c", where], env=found.environment, capture_output=True)
    assert str(place / "environment") in told.stdout.decode() and str(ROOT) not in told.stdout.decode(), told
    return found


@dataclass
class Server:
    """A Prefect server seen through its API."""

    url: str

    def ask(self, what: str, **filters: dict) -> list[dict]:
        """All objects of a kind that pass the filters."""
        answer = httpx.post(f"{self.url}/{what}/filter", json={**filters, "limit": 200}, timeout=30)
        assert answer.is_success, answer.text
        return answer.json()

    def wait_until_it_answers(self) -> None:
        for _ in range(600):
            try:
                if httpx.get(f"{self.url}/health", timeout=5).is_success:
                    return
            except httpx.TransportError:
                time.sleep(0.1)
        raise AssertionError("the server does not answer")

    def wait_for_runs(self) -> dict[str, str]:
        """Flow name -> the state that its run ended in; waits for all runs to end."""
        for _ in range(1200):
            runs = self.ask("flow_runs")
            if all(run["state_type"] in ("COMPLETED", "FAILED", "CRASHED", "CANCELLED") for run in runs):
                flows = {flow["id"]: flow["name"] for flow in self.ask("flows")}
                return {flows[run["flow_id"]]: run["state_name"] for run in runs}
            time.sleep(0.25)
        raise AssertionError(f"still {[run['state_name'] for run in runs]}")

    def task_states(self, flow: str) -> dict[str, str]:
        """Task run name -> state, of the run of a flow."""
        runs = self.ask("task_runs", flows={"name": {"any_": [flow]}})
        return {run["name"]: run["state_name"] for run in runs}

    def deployments(self) -> dict[tuple[str, str], dict]:
        """Entrypoint and preset -> what decides how the deployment runs."""
        fields = ("parameters", "pull_steps", "work_pool_name", "job_variables", "path", "parameter_openapi_schema",
                  "enforce_parameter_schema", "description")  # fmt: skip
        return {(d["entrypoint"], d["name"]): {name: d[name] for name in fields} for d in self.ask("deployments")}


@dataclass
class PrefectBlock:
    """What came of the README's commands for Prefect."""

    server: Server
    deployments: dict[str, dict]  # after `athanor prepare-server`, after `prefect deploy --all`
    ended: dict[str, str]  # flow -> state


@pytest.fixture(scope="module")
def prefect_block(stranger, clone) -> Iterator[PrefectBlock]:
    """Run the README's commands for Prefect in their order, and the whole lifecycle on the worker after that.

    `prefect deploy` is run in a clone: it needs a `prefect.yaml` there, and imports flows with its folder first.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = Server(f"http://127.0.0.1:{port}/api")
    user = Stranger(stranger.binaries, stranger.folder, {**stranger.environment, "PREFECT_API_URL": server.url})
    user.environment["PREFECT_WORKER_QUERY_SECONDS"] = "1"
    preset = load_preset("quickstart", SMALL).model_dump(mode="json", exclude_none=True)
    small = f"--params {shlex.quote(json.dumps({'preset': preset}))}"
    deployments: dict[str, dict] = {}
    try:
        for command in dict.fromkeys((*PREFECT, DEPLOY, "prefect deployment run lifecycle-flow/quickstart")):
            if "server start" in command:
                user.start(f"{command} --host 127.0.0.1 --port {port}")
                server.wait_until_it_answers()
            elif "worker start" in command:
                user.start(command)
            elif "deployment run" in command:
                user.run(f"{command} {small}")
                server.wait_for_runs()
            else:
                user.run(command, clone if command == DEPLOY else None)
                deployments[command] = server.deployments()
        yield PrefectBlock(server, deployments, server.wait_for_runs())
    finally:
        user.stop()


def test_every_command_of_the_readme_is_run_or_listed_as_not_run():
    assert {"Use"} <= README.keys() and PREFECT and USE and PYTHON
    others = [command for command in EVERY if _program(command) not in ("athanor", "prefect")]
    assert not [command for command in others if reason(command) is None]


@pytest.mark.slow
def test_flows_run_on_a_worker_in_the_folder_it_was_started_in(prefect_block, stranger):
    assert prefect_block.ended == {"pretrain-flow": "Completed", "lifecycle-flow": "Completed"}
    states = prefect_block.server.task_states("pretrain-flow")
    assert set(states.values()) == {"Completed"} and "pretrain polychromatic" in states
    again = prefect_block.server.task_states("lifecycle-flow")
    assert {again[name] for name in states} == {"Cached"}
    assert {state for name, state in again.items() if name not in states} == {"Completed"}
    assert {"sft polychromatic", "evaluate word-problems-sft", "report quickstart"} <= again.keys()
    assert stranger.new_files() == {".athanor"}
    found = whole_artifacts(stranger.folder / ".athanor")
    assert len(found) == len(again)
    report = found["report/quickstart"].file("report.html").read_text()
    for heading in ("Lineage", "Benchmarks", "Inside the model", "Samples", "Reproduce"):
        assert heading in report


def whole_artifacts(home: Path) -> dict[str, Artifact]:
    """Stage and label -> artifact, of all in a home; every file is as its manifest says."""
    store = Store(home / "store")
    found = {f"{artifact.stage}/{artifact.label}": artifact for artifact in store.artifacts()}
    assert not [problem for artifact in found.values() if (problem := store.problem(artifact, verify=True))]
    return found


@pytest.mark.slow
def test_every_flow_of_every_preset_is_deployed_and_a_clones_prefect_yaml_says_the_same(prefect_block):
    (prepared,) = [found for command, found in prefect_block.deployments.items() if "prepare-server" in command]
    expected = {(f"athanor.flows.{flow}:{flow}_flow", preset) for flow in FLOWS for preset in preset_names()}
    assert prepared.keys() == expected
    for found in prefect_block.deployments.values():
        assert found == prepared


@pytest.mark.slow
def test_preparing_a_server_again_creates_nothing(prefect_block):
    with temporary_settings({PREFECT_API_URL: prefect_block.server.url}):
        assert prepare_server() == ([], len(preset_names()) * len(FLOWS))
    assert prefect_block.server.deployments() in prefect_block.deployments.values()


LOAD = """
import json, os, sys, tempfile
import torch  # large, and the same for all
from prefect.flow_engine import load_flow_from_entrypoint
for entrypoint, parameters in json.load(sys.stdin).items():
    if not (child := os.fork()):
        flow = load_flow_from_entrypoint(entrypoint, use_placeholder_flow=False)
        for preset in parameters:
            flow.validate_parameters(preset)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0, entrypoint
"""


@pytest.mark.slow
def test_every_deployment_loads_in_a_process_such_as_a_worker_starts(prefect_block, stranger, tmp_path):
    parameters: dict[str, list] = {}
    for (entrypoint, _), fields in prefect_block.server.deployments().items():
        parameters.setdefault(entrypoint, []).append(fields["parameters"])
    environment = {**stranger.environment, "PYTHONPATH": str(tmp_path)}
    command = [stranger.binaries / "python", "-c", LOAD]
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, input=json.dumps(parameters), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_the_commands_for_use_work_on_what_the_worker_has_built(prefect_block, stranger, tmp_path):
    user = Stranger(stranger.binaries, stranger.folder, {**stranger.environment, "PREFECT_HOME": str(tmp_path)})
    documents = [{"text": f"{number} plus {number} is {2 * number}."} for number in range(200)]
    (user.folder / TEXT).write_text("".join(json.dumps(document) + "\n" for document in documents))
    (user.folder / "mine.yaml").write_text("extends: quickstart\ndescription: my own\n")
    built = len(whole_artifacts(user.folder / ".athanor"))
    printed = {}
    for command in USE:
        for pattern, replacement in SUBSTITUTIONS:
            command = re.sub(pattern, replacement, command)
        printed[command] = user.run(f"{command} {SETTINGS}" if re.match(TAKES_SETTINGS, command) else command)
    for code in PYTHON:
        shape = user.run(f"python -P -c {shlex.quote(code + 'print(list(logits_BTV.shape))')}")
        assert re.fullmatch(r"\[1, \d+, \d+\]\n", shape)
    cached = printed["athanor run quickstart"]
    assert "made in" not in cached and cached.count(": cached") == built
    assert f"0 built, {built} cached" in cached and "report.html" in cached
    rebuilt = printed["athanor run quickstart --only evaluate --rebuild"]
    assert set(re.findall(r"^(\w+) \S+: made in", rebuilt, re.M)) == {"evaluate"}
    assert user.new_files() <= {".athanor", TEXT, "mine.yaml", "figure.png"}


@pytest.mark.slow
def test_text_becomes_a_tuned_model_in_another_folder_and_every_second_is_charged(stranger, tmp_path):
    home = tmp_path / "home"
    user = stranger.elsewhere(tmp_path / "folder", ATHANOR_HOME=str(home), PREFECT_HOME=str(tmp_path / "prefect"))
    user.run(f"athanor run quickstart --only sft --budget-hours 50 {SETTINGS}")
    assert user.new_files() == set()
    found = whole_artifacts(home)
    assert {"chat/sft.source", "pretrain/polychromatic", "sft/polychromatic"} <= found.keys()
    allowed_s = [
        json.loads((found[f"{stage}/polychromatic"].path / "run.json").read_text())["runtime"]["budget_s"]
        for stage in ("pretrain", "sft")
    ]
    assert all(0 < seconds < 50 * 3600 for seconds in allowed_s)
    (budget,) = (home / "budgets").glob("quickstart-*")
    assert sum(artifact.manifest["wall_s"] for artifact in found.values()) < ledger_total(budget).device_s < 4000

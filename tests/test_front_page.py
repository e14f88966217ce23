"""The README's commands, read out of it and run as a stranger would: from the wheel, in a folder full of traps.

The folder holds packages and modules named as our folders, our dependencies and the package itself are, each raising
when it is imported. The commands of the section on Prefect come first, on a real server and worker; what the worker
has built is then found by those of the section on use.
"""

from __future__ import annotations

import json
import re
import shlex
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import pytest
from browser import CHROMIUM, Browser
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect_server import Server
from stranger import (
    ROOT,
    Stranger,
    build_wheel,
    clean_environment,
    make_clone,
    make_environment,
    program,
    set_traps,
)

from athanor.core.store import Artifact, Store
from athanor.flows.plan.survey import Survey
from athanor.flows.presets.names import preset_names
from athanor.flows.presets.preset import load_preset
from athanor.flows.server.prepare import prepare_server
from athanor.tasks.parts import FLOWS
from athanor.tasks.stage import parent_keys
from athanor.tasks.trainer.records.ledger import ledger_total

ATTEMPTS, DRAWN_S = 10, 1.0  # of filling in a form
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
            if parts and program(parts[0]) in PROGRAMS:
                found.setdefault(title, []).extend(parts)
    return found


README = commands((ROOT / "README.md").read_text())
PYTHON = re.findall(r"^```python\n(.*?)^```", (ROOT / "README.md").read_text(), flags=re.MULTILINE | re.DOTALL)
EVERY = [command for section in README.values() for command in section]
PREFECT = [
    command for command in EVERY if program(command) == "prefect" or command.startswith("athanor prepare-server")
]


DEPLOY = "prefect deploy --all"


def reason(command: str) -> str | None:
    """Why a command of the README is not run; None if it is."""
    return next((why for pattern, why in NOT_RUN if re.search(pattern, command)), None)


USE = [command for command in EVERY if command not in PREFECT and reason(command) is None]


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
    others = [command for command in EVERY if program(command) not in ("athanor", "prefect")]
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


def arrows_expected() -> set[tuple[str, str]]:
    """From what each artifact of the lifecycle is made from to the artifact, in the names that its stages bear."""
    needed = Survey(load_preset("quickstart", SMALL)).needed_by("lifecycle")
    titles = {found.artifact.key: f"{found.stage} {found.artifact.label}" for found in needed}
    return {
        (titles[k], titles[found.artifact.key]) for found in needed for k in parent_keys(found.wanted.inputs).values()
    }


@pytest.mark.slow
def test_the_graph_of_a_run_has_an_arrow_for_all_that_each_artifact_is_made_from(prefect_block):
    server = prefect_block.server
    arrows = server.edges(server.run_id("lifecycle-flow"))
    assert arrows == arrows_expected() and len(arrows) == 53
    assert {name for arrow in arrows for name in arrow} == server.task_states("lifecycle-flow").keys()


# Keeps what the graph of a flow run draws: each arrow under the ids of the two task runs.
KEEP_ARROWS = """
window.arrows = new Map();
const set = Map.prototype.set;
Map.prototype.set = function (key, value) {
  if (/^[-0-9a-f]{36}_[-0-9a-f]{36}$/.test(String(key)) && value?.element) set.call(window.arrows, key, value.element);
  return set.call(this, key, value);
};
"""
ARROWS = "[...window.arrows.values()].filter(arrow => arrow.parent && arrow.visible).length"


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="neither chromium nor chromium-browser is installed")
def test_a_browser_draws_every_one_of_these_arrows(prefect_block, tmp_path):
    server = prefect_block.server
    with Browser(tmp_path) as browser:
        browser.before_every_page(KEEP_ARROWS)
        browser.go(server.page(f"runs/flow-run/{server.run_id('lifecycle-flow')}"))
        drawn = len(arrows_expected())
        browser.wait_for(f"{ARROWS} >= {drawn}")
        assert browser.value(ARROWS) == drawn


def fill_form(server: Server, deployment_id: str, parameters: dict, name: str, folder: Path) -> None:
    """Start a deployment with a real form: filled as it opens or by a link, under another name, which is typed."""
    names = "[...document.querySelectorAll('textarea')].filter(area => area.value == 'quickstart')"
    submit = "[...document.querySelectorAll('button')].find(button => button.innerText.startsWith('Submit'))"
    form = server.page(f"deployments/deployment/{deployment_id}/run")
    left = "!location.pathname.endsWith('/run')"
    with Browser(folder) as browser:
        browser.go(form)
        browser.wait_for(f"{names}.length == 1 && {submit} != null")
        # Again where SQLite, busy with another run's states, refused to write, or a form that was still being drawn
        # forgot what was typed.
        for _ in range(ATTEMPTS):
            browser.go(f"{form}?parameters={quote(json.dumps(parameters))}")
            browser.wait_for(f"document.body.innerText.includes('300') && {names}.length == 1 && {submit} != null")
            browser.value(f"{names}[0].focus()")
            browser.value(f"{names}[0].select()")
            browser.type(name)
            time.sleep(DRAWN_S)
            if browser.value(f"[...document.querySelectorAll('textarea')].some(area => area.value == '{name}')"):
                browser.value(f"{submit}.click()")
                browser.wait_for(f"{left} || document.body.innerText.includes('Something went wrong')")
            if browser.value(left) and any(name in run["name"] for run in server.ask("flow_runs")):
                return


@pytest.mark.slow
def test_every_flow_starts_on_the_worker_with_what_a_form_of_the_ui_sends(prefect_block, tmp_path):
    server = prefect_block.server
    preset = load_preset("quickstart", SMALL)
    sent = {"preset": preset.model_dump(mode="json"), "rebuild": False, "verify": False}
    renamed = {**sent, "preset": {**sent["preset"], "name": "from-the-form"}}
    ids = {flow: server.deployment_id(f"{flow}-flow", "quickstart") for flow in FLOWS}
    for flow in ("sft", "evaluate", "interpret", "report"):
        server.start(ids[flow], sent)
    if CHROMIUM is not None:
        fill_form(server, ids["data"], {"preset": sent["preset"]}, "from-the-form", tmp_path)
    else:
        server.start(ids["data"], renamed)
    assert server.wait_for_runs() == {f"{flow}-flow": "Completed" for flow in FLOWS}
    assert "data from-the-form" in {run["name"] for run in server.ask("flow_runs")}
    for flow in ("data", "sft", "evaluate", "interpret", "report"):
        assert set(server.task_states(f"{flow}-flow").values()) == {"Cached"}


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

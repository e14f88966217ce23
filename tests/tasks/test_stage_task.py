"""A stage is built once, served from the store ever after, and rebuilt exactly when it must be."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from prefect import flow
from prefect.client.orchestration import get_client
from prefect.testing.utilities import prefect_test_harness
from task_runs import ended_task_runs

from athanor.core.errors import UserError
from athanor.core.recipe import Recipe
from athanor.core.runtime import Runtime
from athanor.core.store import ENGINE_RECORD, Store
from athanor.tasks.cost import Cost
from athanor.tasks.stage import Stage, StageRun, Wanted
from athanor.tasks.stage_task import Decision, run_stage
from athanor.tasks.trainer.process.exit_codes import Preempted

BUILDS: list[str] = []


class ToyRecipe(Recipe):
    text: str = "a"


def toy(recipe: ToyRecipe, run: StageRun, **inputs) -> dict:
    BUILDS.append(recipe.text)
    (run.out / "text").write_text(recipe.text)
    (run.out / "result.json").write_text("{}")
    if recipe.text == "broken":
        raise UserError("recipe.text=broken: use another")
    if recipe.text == "priced":
        time.sleep(0.05)
    if recipe.text == "accounted":
        return {"wall_s": 5000.0, "cost_usd": 7.0}
    return {"length": len(recipe.text)}


def resumable(recipe: ToyRecipe, run: StageRun) -> dict:
    BUILDS.append("went on" if (run.out / "first").exists() else "began")
    (run.out / "first").touch()
    if len(BUILDS) == 1:
        raise Preempted("stopped half-way")
    return {}


def stage(build, name: str, resumable: bool = False) -> Stage:
    return Stage(name, "data", lambda life: (), lambda recipe, preset: Cost(0.0), build, resumable=resumable)


TOY, RESUMABLE = stage(toy, "toy"), stage(resumable, "toy-resumable", resumable=True)


@flow
def two_stages(runtime: Runtime, decision: Decision) -> None:
    first = run_stage(TOY, Wanted("a", "a", ToyRecipe(text="a")), runtime, decision)
    run_stage(TOY, Wanted("b", "b", ToyRecipe(text="b"), {"first": first}), runtime, decision)


@flow
def one_stage(text: str, retries: int = 0, price_usd_per_hour: float = 0.0) -> None:
    run_stage(
        TOY, Wanted("x", "x", ToyRecipe(text=text)), Runtime(retries=retries, price_usd_per_hour=price_usd_per_hour)
    )


@flow
def one_resumable(retries: int) -> None:
    run_stage(RESUMABLE, Wanted("x", "x", ToyRecipe()), Runtime(retries=retries))


@pytest.fixture(scope="module", autouse=True)
def server():
    with prefect_test_harness(server_startup_timeout=120):
        yield


@pytest.fixture(autouse=True)
def no_builds_yet():
    BUILDS.clear()


def run(runtime: Runtime | None = None, decision: Decision | None = None) -> list[str]:
    """Run the two-stage flow and return the names of its task runs' states."""
    state = two_stages(runtime or Runtime(), decision or Decision(), return_state=True)
    assert state.is_completed(), state.message
    with get_client(sync_client=True) as client:
        runs = ended_task_runs(client, {state.state_details.flow_run_id}, ("toy a", "toy b"))
    return [r.state_name for r in sorted(runs, key=lambda r: r.name)]


def first_artifact() -> Path:
    return next(Store().root.glob("toy/a-*"))


def test_a_second_run_is_cached_in_the_prefect_ui():
    assert run() == ["Completed", "Completed"]
    assert run() == ["Cached", "Cached"]
    assert BUILDS == ["a", "b"]


def test_a_deleted_directory_reruns_that_stage_alone():
    run()
    shutil.rmtree(first_artifact())
    assert run() == ["Completed", "Cached"]


def test_an_artifact_without_prefects_record_is_still_cached():
    run()
    (first_artifact() / ENGINE_RECORD).unlink()
    assert run() == ["Cached", "Cached"]
    assert BUILDS == ["a", "b"]


def test_a_torn_file_is_rebuilt_although_prefect_has_a_record():
    run()
    (first_artifact() / "text").write_text("")
    assert run() == ["Completed", "Cached"]
    assert (first_artifact() / "text").read_text() == "a"


def test_a_flipped_byte_is_rebuilt_under_verify():
    run()
    (first_artifact() / "text").write_text("z")
    assert run() == ["Cached", "Cached"]
    assert run(decision=Decision(verify=True)) == ["Completed", "Cached"]
    assert (first_artifact() / "text").read_text() == "a"


def test_rebuild_builds_again_under_the_same_key():
    run()
    before = first_artifact()
    assert run(decision=Decision(rebuild=True)) == ["Completed", "Completed"]
    assert first_artifact() == before


def test_other_hardware_keeps_the_key():
    run(Runtime(device="cpu", workers=1, threads=1, micro_batch_rows=1, price_usd_per_hour=0.0))
    moved = Runtime(device="auto", workers=7, threads=3, micro_batch_rows=9, price_usd_per_hour=9.0, precision="bf16")
    assert run(moved) == ["Cached", "Cached"]


def test_changed_code_is_served_with_a_warning_and_rebuilt_on_request(monkeypatch, caplog):
    run()
    monkeypatch.setattr(Stage, "fingerprint", lambda self: "other code")
    with caplog.at_level("WARNING"):
        assert run() == ["Cached", "Cached"]
    assert "was made by other code than today's" in caplog.text
    assert run(Runtime(rebuild_drifted=True)) == ["Completed", "Completed"]
    assert run(Runtime(rebuild_drifted=True)) == ["Cached", "Cached"]


def test_a_users_mistake_fails_with_its_own_message_and_leaves_no_artifact():
    state = one_stage("broken", return_state=True)
    assert state.is_failed() and "recipe.text=broken: use another" in (state.message or "")
    assert list(Store().artifacts()) == []
    assert [path.name for path in Store().root.iterdir()] == ["toy"], "Prefect's record of the failure"


def test_a_preempted_resumable_stage_is_retried_and_finds_its_files():
    assert one_resumable(1, return_state=True).is_completed()
    assert BUILDS == ["began", "went on"]


def test_a_stage_costs_what_all_devices_cost_unless_it_keeps_an_account_of_its_own(monkeypatch):
    monkeypatch.setattr(Runtime, "devices", lambda *_: 1000)
    for text in ("priced", "accounted"):
        one_stage(text, price_usd_per_hour=3600.0)  # of each device
    priced, accounted = sorted((a.manifest for a in Store().artifacts()), key=lambda manifest: manifest["wall_s"])
    assert priced["cost_usd"] == pytest.approx(1000 * priced["wall_s"], abs=1) and priced["wall_s"] >= 0.05
    assert (accounted["wall_s"], accounted["cost_usd"], accounted["facts"]) == (5000.0, 7.0, {})


def test_a_users_mistake_is_not_retried():
    assert one_stage("broken", 3, return_state=True).is_failed()
    assert BUILDS == ["broken"]


BUILDER = """
import sys, time
from pathlib import Path
from prefect import flow
from athanor.core.recipe import Recipe
from athanor.core.runtime import Runtime
from athanor.tasks.stage import Stage, Wanted
from athanor.tasks.stage_task import run_stage

def shared(recipe, run):
    with open(sys.argv[1], "a") as log:
        log.write("built\\n")
    time.sleep(2)
    return {}

@flow
def build():
    run_stage(Stage("shared", "data", None, None, shared), Wanted("x", "x", Recipe()), Runtime())

build()
"""


@pytest.mark.slow
def test_two_processes_that_want_one_key_build_it_once(tmp_path):
    log = tmp_path / "log"
    (tmp_path / "build.py").write_text(BUILDER)
    command = [sys.executable, str(tmp_path / "build.py"), str(log)]
    both = [subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) for _ in range(2)]
    for process in both:
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors.decode()[-2000:]
    assert log.read_text() == "built\n"


@pytest.mark.slow
def test_a_stage_killed_half_way_leaves_nothing_half_valid(tmp_path):
    log = tmp_path / "log"
    (tmp_path / "build.py").write_text(BUILDER.replace("time.sleep(2)", "time.sleep(60)"))
    process = subprocess.Popen(
        [sys.executable, str(tmp_path / "build.py"), str(log)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    while not log.exists():
        assert process.poll() is None
        time.sleep(0.1)
    os.killpg(process.pid, signal.SIGKILL)  # its temporary Prefect server too
    process.wait()
    assert list(Store().artifacts()) == []

"""A run's rows reach the metrics database while it trains, whichever of its two processes is killed."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from filelock import FileLock

import athanor.tasks.runs.follow
from athanor.core.progress import silent
from athanor.core.rows import read_rows
from athanor.core.store import Store
from athanor.tasks.runs.follow import catch_up, rebuild
from athanor.tasks.runs.read import overview, reading, state_now
from athanor.tasks.runs.schema import database_path
from athanor.tasks.stage import StageRun
from athanor.tasks.trainer.process.exit_codes import Preempted
from athanor.tasks.trainer.train_recipe import RunSpec
from athanor.tasks.training import train

STEPS = 200
FLOW = """
import sys
from pathlib import Path
import athanor.tasks.runs.follow
from athanor.core.progress import silent
from athanor.tasks.stage import StageRun
from athanor.tasks.trainer.train_recipe import RunSpec
from athanor.tasks.training import train

athanor.tasks.runs.follow.EVERY_S = 0.1
spec = RunSpec.model_validate_json(Path(sys.argv[1]).read_text())
train(spec, StageRun(Path(sys.argv[2]), spec.key, spec.runtime, print, silent))
"""


@pytest.fixture
def run_of(make_run, private_home, monkeypatch) -> Callable[..., tuple[RunSpec, Path]]:
    """The description of a tiny run, and its folder in the store."""
    monkeypatch.setattr(athanor.tasks.runs.follow, "EVERY_S", 0.1)

    def make(steps: int) -> tuple[RunSpec, Path]:
        settings = {"steps": steps, "eval_every_steps": 5}
        written = make_run("spec", train=settings, runtime={"checkpoint_every_steps": 3}, key="abc123" * 10 + "0000")
        folder = private_home / "store" / "pretrain" / ".vanilla-abc123abc123.partial"
        folder.mkdir(parents=True)
        return RunSpec.model_validate_json((written / "run.json").read_text()), folder

    return make


def select(sql: str) -> list[tuple]:
    with closing(sqlite3.connect(database_path())) as db:
        return db.execute(sql).fetchall()


def dump() -> list[str]:
    with closing(sqlite3.connect(database_path())) as db:
        assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        return list(db.iterdump())


def state() -> str:
    with reading() as db:
        (row,) = overview(db)
        return state_now(row)


def test_a_killed_training_process_and_its_resume_leave_what_the_log_says(run_of, monkeypatch):
    spec, folder = run_of(STEPS)
    children = []
    real = subprocess.Popen
    monkeypatch.setattr(
        "athanor.tasks.trainer.process.launch.subprocess.Popen",
        lambda *a, **k: children.append(real(*a, **k)) or children[-1],
    )

    def kill_after_ten_steps(message):
        while message == "started" and (folder / "metrics.jsonl").read_bytes().count(b"\n") < 12:
            time.sleep(0.005)
        children[-1].kill()

    with pytest.raises(Preempted):
        train(spec, StageRun(folder, spec.key, spec.runtime, kill_after_ten_steps, silent))
    steps = [row["step"] for row in read_rows(folder / "metrics.jsonl") if row["kind"] == "step"]
    assert [step for (step,) in select("SELECT step FROM steps")] == steps
    assert state() == "stopped"

    said: list[str] = []
    train(spec, StageRun(folder, spec.key, spec.runtime, said.append, silent))
    assert not any("not up to date" in line for line in said)
    assert [step for (step,) in select("SELECT step FROM steps")] == list(range(1, STEPS + 1))
    assert select("SELECT count(DISTINCT attempt) FROM costs") == [(2,)]
    assert state() == "complete"
    live = dump()
    rebuild(Store())
    assert dump() == live


def test_what_a_run_writes_after_its_flow_was_killed_is_taken_up_later(run_of, tmp_path):
    _, folder = run_of(100_000)
    flow = subprocess.Popen(
        [sys.executable, "-c", FLOW, str(tmp_path / "spec" / "run.json"), str(folder)],
        stdout=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 60
    while not database_path().exists() or select("SELECT count(*) FROM sqlite_schema")[0][0] == 0:
        assert time.monotonic() < deadline and flow.poll() is None
        time.sleep(0.05)
    while select("SELECT count(*) FROM steps")[0][0] < 10:
        assert time.monotonic() < deadline and flow.poll() is None
        time.sleep(0.05)
    assert state() == "running"
    flow.kill()
    flow.wait()
    with FileLock(folder / "trainer.lock", timeout=30):  # the orphan saves and stops
        pass
    catch_up(Store())
    rows = [row for row in read_rows(folder / "metrics.jsonl") if row["kind"] == "step"]
    assert select("SELECT count(*), max(step) FROM steps") == [(len(rows), rows[-1]["step"])]
    assert select("SELECT message FROM events ORDER BY event DESC LIMIT 1")[0][0].startswith("preempted")
    live = dump()
    rebuild(Store())
    assert dump() == live


def test_training_goes_on_beside_a_damaged_database(run_of):
    spec, folder = run_of(12)
    database_path().write_bytes(b"no database" * 1000)
    said: list[str] = []
    facts = train(spec, StageRun(folder, spec.key, spec.runtime, said.append, silent))
    assert facts["steps"] == 12
    assert (folder / "model.safetensors").exists()
    assert len([line for line in said if "not up to date" in line]) == 1
    rebuild(Store())
    assert select("SELECT count(*) FROM steps") == [(12,)]

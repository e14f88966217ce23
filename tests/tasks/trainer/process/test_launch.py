"""Starting the training process and never leaving it behind, with real processes."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
from filelock import FileLock, Timeout

from athanor.core.errors import UserError
from athanor.core.rows import read_rows
from athanor.core.runtime import Runtime
from athanor.tasks.trainer.process.exit_codes import ExitCode
from athanor.tasks.trainer.process.launch import IoFailure, OutOfMemory, Preempted, Retryable, run_trainer
from athanor.tasks.trainer.process.outcome import Outcome

ENDLESS = {"train": {"steps": 1_000_000, "eval_every_steps": 1_000_000}, "runtime": {"checkpoint_every_steps": 50_000}}


def wait_until(condition, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.05)


def is_free(folder) -> bool:
    """Whether no trainer is at work in the folder."""
    try:
        with FileLock(folder / "trainer.lock", timeout=0):
            return True
    except Timeout:
        return False


def steps(folder) -> list[int]:
    return [row["step"] for row in read_rows(folder / "metrics.jsonl") if row["kind"] == "step"]


def checkpoints(folder) -> list[str]:
    return [path.name for path in (folder / "checkpoints").iterdir()]


def test_a_complete_run_returns_and_relays_every_row(make_run):
    folder = make_run("run", train={"steps": 5})
    rows: list[dict] = []
    run_trainer(folder, rows.append)
    assert rows == list(read_rows(folder / "metrics.jsonl"))
    assert [row["step"] for row in rows if row["kind"] == "step"] == [1, 2, 3, 4, 5]
    assert (folder / "model.safetensors").exists()
    assert "step 5/5  loss" in (folder / "trainer.log").read_text()


def test_any_interruption_of_the_parent_stops_the_child_after_a_save(make_run):
    folder = make_run("run", **ENDLESS)

    def interrupt(row):
        if row["kind"] == "step" and row["step"] >= 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_trainer(folder, interrupt)
    assert is_free(folder)
    assert checkpoints(folder) == [f"step-{steps(folder)[-1]:08d}"]


@pytest.mark.parametrize(
    ("child", "error"),
    [
        ("echo started; echo some line; exit 2", UserError("some line")),
        ("echo stopped; exit 75", Preempted("stopped")),
        ("echo no memory; exit 71", OutOfMemory("no memory")),
        ("echo disk full; exit 74", IoFailure("disk full")),
        ("kill -KILL $$", Preempted("the training process was killed by SIGKILL; see LOG")),
        ("echo Oops; exit 1", RuntimeError("the training process failed (exit 1): Oops; see LOG")),
        ("kill -SEGV $$", RuntimeError("the training process failed (exit -11): it printed nothing; see LOG")),
    ],
)
def test_every_end_of_the_child_is_its_own_exception(tmp_path, monkeypatch, child, error):
    script = tmp_path / "child"
    script.write_text(f"#!/bin/sh\n{child}\n")
    script.chmod(0o755)
    monkeypatch.setattr("athanor.tasks.trainer.process.commands.sys.executable", str(script))
    log = tmp_path / "trainer.log"
    log.write_text("a line of an earlier attempt\n")
    with pytest.raises(type(error)) as raised:
        run_trainer(tmp_path, lambda row: None)
    assert type(raised.value) is type(error)
    assert str(raised.value) == str(error).replace("LOG", str(log))
    assert isinstance(raised.value, Retryable) == isinstance(error, Preempted | OutOfMemory | IoFailure)


def test_a_child_that_will_not_stop_is_killed_with_all_its_descendants(tmp_path, monkeypatch):
    row = r"{\"kind\": \"event\", \"attempt\": \"$ATHANOR_ATTEMPT\"}"
    lines = [
        "#!/bin/sh",
        "trap '' TERM",
        "sleep 600 &",
        "echo $! > $4/descendant",
        f'echo "{row}" > $4/metrics.jsonl',
        "wait",
    ]
    script = tmp_path / "child"
    script.write_text("\n".join(lines) + "\n")
    script.chmod(0o755)
    monkeypatch.setattr("athanor.tasks.trainer.process.commands.sys.executable", str(script))
    monkeypatch.setattr("athanor.tasks.trainer.process.grace.LEAST_GRACE_S", 0.2)

    def interrupt(row):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_trainer(tmp_path, interrupt)
    descendant = Path("/proc") / (tmp_path / "descendant").read_text().strip() / "stat"
    wait_until(lambda: not descendant.exists() or descendant.read_text().split()[2] == "Z", 5)


def test_an_orphan_saves_and_stops_and_its_successor_waits_for_it(make_run):
    folder = make_run("run", **ENDLESS)
    code = (
        "import sys, pathlib; from athanor.tasks.trainer.process.launch import run_trainer;"
        "run_trainer(pathlib.Path(sys.argv[1]), print)"
    )
    parent = subprocess.Popen([sys.executable, "-c", code, str(folder)], stdout=subprocess.DEVNULL)
    wait_until(lambda: len(steps(folder)) >= 3, 60)
    assert not is_free(folder)
    parent.kill()
    parent.wait()
    wait_until(lambda: is_free(folder), 10)
    assert checkpoints(folder) == [f"step-{steps(folder)[-1]:08d}"]
    events = [row["message"] for row in read_rows(folder / "metrics.jsonl") if row["kind"] == "event"]
    assert f"parent process {parent.pid} is gone" in events[-1]


@pytest.mark.parametrize(
    ("said", "printed", "error"),
    [
        ((2, "some field"), "Traceback", UserError("some field")),
        ((75, "stopped"), "", Preempted("stopped")),
        ((71, "no memory"), "", OutOfMemory("no memory")),
        ((74, "disk full"), "", IoFailure("disk full")),
        ((1, "ValueError: x"), "", RuntimeError("the training process failed (exit 1): ValueError: x; see LOG")),
        (None, "  exitcode  : -9 (pid: 7)", Preempted("the training process was killed by SIGKILL; see LOG")),
        (None, "[...] exits with return code = -9", Preempted("the training process was killed by SIGKILL; see LOG")),
        (None, "no such module", RuntimeError("the training process failed (exit 1): no such module; see LOG")),
    ],
)
def test_the_end_of_the_ranks_is_what_one_of_them_said_else_what_the_launcher_said(
    tmp_path, monkeypatch, said, printed, error
):
    Outcome("earlier", ExitCode.USER_ERROR, "not this attempt").leave(tmp_path)
    lines = ["#!/bin/sh", f"echo '{printed}'"]
    if said is not None:
        outcome = json.dumps({"attempt": "ATTEMPT", "exit": said[0], "message": said[1]})
        lines.append(f"echo '{outcome}' | sed s/ATTEMPT/$ATHANOR_ATTEMPT/ > {tmp_path}/outcome.json")
    script = tmp_path / "launcher"
    script.write_text("\n".join([*lines, "exit 1"]) + "\n")
    script.chmod(0o755)
    monkeypatch.setattr("athanor.tasks.trainer.process.commands.sys.executable", str(script))
    with pytest.raises(type(error)) as raised:
        run_trainer(tmp_path, lambda row: None, Runtime(ranks=2))
    assert str(raised.value) == str(error).replace("LOG", str(tmp_path / "trainer.log"))

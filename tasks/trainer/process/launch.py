"""The parent's side of a training process: start it, relay its metrics, never leave it behind.

The process gets a session of its own, so that a Ctrl-C at the terminal reaches only the parent, which then asks it
to save. Whatever ends `run_trainer` (an exception of any kind, cancellation included), the process is gone by then. Of
several ranks the process is their launcher; they are gone then too.
"""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import psutil

from athanor.core.errors import UserError
from athanor.core.rows import Row, parse_row
from athanor.core.run_files import LOG, METRICS
from athanor.core.runtime import Runtime
from athanor.core.threads import SHARING_CORES
from athanor.tasks.trainer.engines.kind import engine_of
from athanor.tasks.trainer.process.age import STARTED_VARIABLE
from athanor.tasks.trainer.process.commands import command, environment
from athanor.tasks.trainer.process.exit_codes import ExitCode, IoFailure, OutOfMemory, Preempted, Retryable
from athanor.tasks.trainer.process.grace import grace_s
from athanor.tasks.trainer.process.outcome import read_outcome
from athanor.tasks.trainer.process.stop_request import PARENT_VARIABLE
from athanor.tasks.trainer.records.metrics import ATTEMPT_VARIABLE

__all__ = ["IoFailure", "OutOfMemory", "Preempted", "Retryable", "run_trainer"]

ALONE = Runtime()
POLL_S = 0.2
# What torchrun and the deepspeed launcher say of a rank that a signal ended.
KILLED_RANK = re.compile(r"exitcode\s*: -(\d+)|return code = -(\d+)")


def run_trainer(run_dir: Path, on_row: Callable[[Row], None], runtime: Runtime = ALONE) -> None:
    """Run `python -m athanor.tasks.trainer run_dir` to its end, in as many ranks as the runtime says; `on_row` gets
    each metrics row this attempt writes.

    Returns when the run is complete. Raises UserError for what the user can mend, Preempted, OutOfMemory or IoFailure
    (all Retryable) for what running it again may cure, and RuntimeError for anything else. Output goes to
    `run_dir/trainer.log`.
    """
    attempt = uuid.uuid4().hex[:12]
    variables = {
        **SHARING_CORES,
        **os.environ,
        "PYTHONUNBUFFERED": "1",
        PARENT_VARIABLE: str(os.getpid()),
        ATTEMPT_VARIABLE: attempt,
        STARTED_VARIABLE: str(time.monotonic()),
        **environment(runtime),
    }
    for node in range(1, runtime.nodes):
        on_row(_event(f"waiting for node {node}; run there: {shlex.join(command(run_dir, runtime, node))}"))
    with open(run_dir / LOG, "ab") as log:
        log_start = log.tell()
        process = subprocess.Popen(
            command(run_dir, runtime),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=variables,
            start_new_session=True,
        )
    try:
        tail = MetricsTail(run_dir / METRICS, attempt)
        while process.poll() is None:
            for row in tail.new_rows():
                on_row(row)
            time.sleep(POLL_S)
        for row in tail.new_rows():
            on_row(row)
    finally:
        _end(process, grace_s(run_dir))
    if engine_of(runtime).launcher.says_it_all:
        _raise_for(process.returncode, run_dir / LOG, log_start)
    elif process.returncode != ExitCode.DONE:
        _raise_for_ranks(run_dir, attempt, process.returncode, log_start)


def _event(message: str) -> Row:
    return {"kind": "event", "step": 0, "message": message}


class MetricsTail:
    """The rows one attempt appends to a metrics file that it first rewrites (a resume drops rows)."""

    def __init__(self, path: Path, attempt: str):
        self._path = path
        self._attempt = attempt
        self._inode: int | None = None
        self._offset = 0
        self._begun = False

    def new_rows(self) -> Iterator[Row]:
        """Rows since the last call, from the event that opens the attempt onwards."""
        if not self._path.exists():
            return
        with open(self._path, "rb") as file:
            if (inode := os.fstat(file.fileno()).st_ino) != self._inode:
                self._inode, self._offset, self._begun = inode, 0, False
            file.seek(self._offset)
            for line in file:
                if not line.endswith(b"\n"):
                    return
                self._offset += len(line)
                if (row := parse_row(line)) is None:
                    continue
                self._begun = self._begun or row.get("attempt") == self._attempt
                if self._begun:
                    yield row


def _end(process: subprocess.Popen, grace_s: float) -> None:
    """Ask for a save, wait, then kill whatever is left of the process's group and of its descendants, which a launcher
    gives groups of their own."""
    descendants: list[psutil.Process] = []
    try:
        if process.poll() is None:
            descendants = psutil.Process(process.pid).children(recursive=True)
            process.terminate()
            process.wait(grace_s)
    except (subprocess.TimeoutExpired, psutil.NoSuchProcess):
        pass
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        for descendant in descendants:
            with suppress(psutil.NoSuchProcess):
                descendant.kill()


def _raise_for(code: int, log: Path, log_start: int) -> None:
    """What the exit code of a single process means."""
    if code == ExitCode.DONE:
        return
    if -code in (signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        raise Preempted(f"the training process was killed by {signal.Signals(-code).name}; see {log}")
    _raise(code, _said(log, log_start)[-1], log)


def _raise_for_ranks(run_dir: Path, attempt: str, code: int, log_start: int) -> None:
    """What became of several ranks: as one of them said, else as their launcher said."""
    log = run_dir / LOG
    outcome = read_outcome(run_dir)
    if outcome is not None and outcome.attempt == attempt:
        _raise(outcome.exit, outcome.message, log)
    lines = _said(log, log_start)
    killed = KILLED_RANK.search("\n".join(lines))
    _raise_for(-int(killed[1] or killed[2]) if killed else code, log, log_start)


def _said(log: Path, start: int) -> list[str]:
    with open(log, encoding="utf-8", errors="replace") as file:
        file.seek(start)
        return [line.strip() for line in file if line.strip()] or ["it printed nothing"]


def _raise(code: int, said: str, log: Path) -> None:
    if code == ExitCode.USER_ERROR:
        raise UserError(said)
    retryable = {ExitCode.PREEMPTED: Preempted, ExitCode.OUT_OF_MEMORY: OutOfMemory, ExitCode.IO_ERROR: IoFailure}
    if code in retryable:
        raise retryable[ExitCode(code)](said)
    raise RuntimeError(f"the training process failed (exit {code}): {said}; see {log}")

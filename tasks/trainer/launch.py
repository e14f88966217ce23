"""The parent's side of a training process: start it, relay its metrics, never leave it behind.

The process gets a session of its own, so that a Ctrl-C at the terminal reaches only the parent, which then asks it
to save. Whatever ends `run_trainer` (an exception of any kind, cancellation included), the process is gone by then.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

from data.errors import UserError
from tasks.trainer.exits import Exit, IoFailure, OutOfMemory, Preempted, Retryable
from tasks.trainer.metrics import ATTEMPT_VARIABLE, METRICS
from tasks.trainer.rows import Row, parse_row
from tasks.trainer.stopping import PARENT_VARIABLE

__all__ = ["IoFailure", "OutOfMemory", "Preempted", "Retryable", "run_trainer"]

LOG = "trainer.log"
POLL_S = 0.2
GRACE_S = 30.0  # between asking the process to save and killing it


def run_trainer(run_dir: Path, on_row: Callable[[Row], None]) -> None:
    """Run `python -m tasks.trainer run_dir` to its end; `on_row` gets each metrics row this attempt writes.

    Returns when the run is complete. Raises UserError for what the user can mend, Preempted, OutOfMemory or IoFailure
    (all Retryable) for what running it again may cure, and RuntimeError for anything else. Output goes to
    `run_dir/trainer.log`.
    """
    attempt = uuid.uuid4().hex[:12]
    environment = {
        "GOMP_SPINCOUNT": "1000",  # spin briefly at barriers: full speed alone, not a tenth of it beside others
        **os.environ,
        "PYTHONUNBUFFERED": "1",
        PARENT_VARIABLE: str(os.getpid()),
        ATTEMPT_VARIABLE: attempt,
    }
    with open(run_dir / LOG, "ab") as log:
        log_start = log.tell()
        process = subprocess.Popen(
            [sys.executable, "-m", "tasks.trainer", str(run_dir)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=environment,
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
        _end(process)
    _raise_for(process.returncode, run_dir / LOG, log_start)


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


def _end(process: subprocess.Popen) -> None:
    """Ask for a save, wait, then kill whatever is left of the process's group."""
    try:
        if process.poll() is None:
            process.terminate()
            process.wait(GRACE_S)
    except subprocess.TimeoutExpired:
        pass
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _raise_for(code: int, log: Path, log_start: int) -> None:
    if code == Exit.DONE:
        return
    if -code in (signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        raise Preempted(f"the training process was killed by {signal.Signals(-code).name}; see {log}")
    with open(log, errors="replace") as file:
        file.seek(log_start)
        lines = [line.strip() for line in file if line.strip()]
    said = lines[-1] if lines else "it printed nothing"
    if code == Exit.USER_ERROR:
        raise UserError(said)
    retryable = {Exit.PREEMPTED: Preempted, Exit.OUT_OF_MEMORY: OutOfMemory, Exit.IO_ERROR: IoFailure}
    if code in retryable:
        raise retryable[Exit(code)](said)
    raise RuntimeError(f"the training process failed (exit {code}): {said}; see {log}")

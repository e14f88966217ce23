"""A process that builds stages beside others, for a flow that has cores to spare.

Stages are built in processes because what they call keeps settings of the whole process (random states, data loaders'
and lm-eval's own), which two at once would take from each other. A process is kept for the next stage, so that what it
has imported is there. It is asked and answers over a socket; Prefect, locks and the store's manifests stay with the
flow.

Invariant: it is gone with whoever started it, at once, so nobody writes into the folder of a stage whose lock is free.
"""

from __future__ import annotations

import os
import pickle
import signal
import socket
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from multiprocessing.connection import Connection
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from athanor.core.errors import UserError
from athanor.core.progress import Progress
from athanor.core.recipe import Recipe
from athanor.core.runtime import Runtime
from athanor.core.threads import SHARING_CORES
from athanor.tasks.stage import STAGES, Inputs, Stage, StageRun
from athanor.tasks.trainer.process.exit_codes import Preempted

PROGRESS_EVERY_S = 0.1


class StageProcess:
    """One such process, started when there is something to build and again if it was killed; with `gpu` it sees that
    one alone."""

    def __init__(self, gpu: str | None = None):
        self.gpu = gpu
        self._lock = threading.Lock()
        self._process: subprocess.Popen | None = None
        self._connection: Connection | None = None
        self._ended = False

    def build(self, stage: Stage, recipe: Recipe, run: StageRun, inputs: Inputs) -> dict:
        """What `stage.build` returns or raises, with its log and progress on their way through `run`.

        Raises Preempted if the process is killed, and UserError once it was ended.
        """
        process, connection = self._started(stage)
        try:
            connection.send((stage.name, recipe, run.out, run.key, run.runtime, dict(inputs)))
            while True:
                match connection.recv():
                    case "log", message:
                        run.log(message)
                    case "progress", report:
                        run.progress(*report)
                    case "facts", facts:
                        return facts
                    case _, error:
                        break
        except (EOFError, OSError):
            code = process.wait()
            self._check_wanted(stage)
            why = signal.Signals(-code).name if code < 0 else f"exit status {code}"
            raise Preempted(f"the process that built {stage.name} ended: {why}") from None
        raise error

    def end(self) -> None:
        """End it, whatever it does; what it was building stays begun."""
        with self._lock:
            self._ended = True
            if self._process is not None:
                self._process.kill()
                self._process.wait()

    def _started(self, stage: Stage) -> tuple[subprocess.Popen, Connection]:
        with self._lock:
            self._check_wanted(stage)
            if self._process is None or self._connection is None or self._process.poll() is not None:
                self._process, self._connection = _start(self.gpu)
            return self._process, self._connection

    def _check_wanted(self, stage: Stage) -> None:
        if self._ended:
            raise UserError(f"{stage.name} was interrupted; the same command continues")


def _start(gpu: str | None) -> tuple[subprocess.Popen, Connection]:
    ours, theirs = socket.socketpair()
    with theirs:
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", __name__, str(theirs.fileno())],
            stdin=subprocess.DEVNULL,
            env={**SHARING_CORES, **os.environ, **({} if gpu is None else {"CUDA_VISIBLE_DEVICES": gpu})},
            pass_fds=(theirs.fileno(),),
            start_new_session=True,  # a Ctrl-C is the flow's to answer
        )
    return process, Connection(ours.detach())


def _serve(connection: Connection) -> None:
    jobs: SimpleQueue = SimpleQueue()
    threading.Thread(target=_receive, args=(connection, jobs), daemon=True).start()
    while True:
        name, recipe, out, key, runtime, inputs = jobs.get()
        connection.send(_built(connection.send, name, recipe, out, key, runtime, inputs))


def _receive(connection: Connection, jobs: SimpleQueue) -> None:
    """Take what is asked, and end the process once there is nobody to ask."""
    while True:
        try:
            jobs.put(connection.recv())
        except (EOFError, OSError):
            os._exit(1)


def _built(
    send: Callable, name: str, recipe: Recipe, out: Path, key: str, runtime: Runtime, inputs: Mapping[str, Any]
) -> tuple[str, Any]:
    run = StageRun(out, key, runtime, lambda message: send(("log", message)), _relayed(send))
    try:
        return "facts", STAGES[name].build(recipe, run, **inputs)
    except Exception as error:
        return "error", _portable(error, traceback.format_exc())


def _portable(error: Exception, told: str) -> Exception:
    """The error, with where it was raised; what it says of itself where it cannot be sent."""
    try:
        error.add_note(told)
        return pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(told)


def _relayed(send: Callable) -> Progress:
    """Progress, passed on now and then."""
    told_s = 0.0

    def progress(done: float, total: float | None, unit: str) -> None:
        nonlocal told_s
        if (now := time.monotonic()) - told_s >= PROGRESS_EVERY_S:
            told_s = now
            send(("progress", (done, total, unit)))

    return progress


if __name__ == "__main__":
    _serve(Connection(int(sys.argv[1])))

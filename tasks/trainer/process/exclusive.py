"""One attempt at a time: a lock on the run's folder, which the process holds while it trains."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from athanor.core.errors import UserError
from athanor.core.run_files import LOCK
from athanor.tasks.trainer.process.exit_codes import Preempted
from athanor.tasks.trainer.process.stop_request import StopRequest
from athanor.tasks.trainer.process.world import World

PATIENCE_S = 120.0  # an orphan of a killed flow needs this long to finish its step and save


@contextmanager
def exclusive(run_dir: Path, stop: StopRequest, world: World) -> Iterator[None]:
    """Within: no other attempt is at work. The first rank sees to it, the others wait for its word.

    Raises Preempted if asked to stop while it waits, UserError when it has waited long enough.
    """
    if not world.first:
        world.from_first(None)
        yield
        return
    lock = FileLock(run_dir / LOCK)
    deadline = time.monotonic() + PATIENCE_S
    while not lock.is_locked:
        try:
            lock.acquire(timeout=0.5)
        except Timeout:
            if (reason := stop.reason) is not None:
                raise Preempted(f"stopped while waiting for {run_dir / LOCK}: {reason}") from None
            if time.monotonic() > deadline:
                raise UserError(f"another trainer is at work in {run_dir}; stop it, or wait for it") from None
    try:
        world.from_first(None)
        yield
    finally:
        lock.release()

"""Two attempts at one run: the later waits, and says why it gives up."""

from __future__ import annotations

import pytest
from filelock import FileLock
from trainer_stop import Stop

from athanor.core.errors import UserError
from athanor.tasks.trainer.process import exclusive as module
from athanor.tasks.trainer.process.exclusive import exclusive
from athanor.tasks.trainer.process.exit_codes import Preempted
from athanor.tasks.trainer.process.world import ALONE, World


def test_within_nobody_else_has_the_run_and_afterwards_anybody_may(tmp_path):
    with exclusive(tmp_path, Stop(), ALONE), pytest.raises(TimeoutError):
        FileLock(tmp_path / "trainer.lock").acquire(timeout=0)
    with FileLock(tmp_path / "trainer.lock").acquire(timeout=0):
        pass


@pytest.mark.parametrize(
    ("stop", "patience_s", "error", "message"),
    [
        (Stop(looks=1), 60.0, Preempted, "stopped while waiting for .*trainer.lock: SIGTERM"),
        (Stop(), 0.0, UserError, "another trainer is at work in .*; stop it, or wait for it"),
    ],
)
def test_who_waits_too_long_or_is_asked_to_stop_says_so(tmp_path, monkeypatch, stop, patience_s, error, message):
    monkeypatch.setattr(module, "PATIENCE_S", patience_s)
    with (
        FileLock(tmp_path / "trainer.lock", is_singleton=False),
        pytest.raises(error, match=message),
        exclusive(tmp_path, stop, ALONE),
    ):
        pytest.fail("two attempts at work")


def test_only_the_first_rank_takes_the_lock(tmp_path, monkeypatch):
    monkeypatch.setattr(World, "from_first", lambda world, value: value)
    with FileLock(tmp_path / "trainer.lock"), exclusive(tmp_path, Stop(), World(rank=1, size=2)):
        pass

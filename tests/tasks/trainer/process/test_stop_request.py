"""A run stops for a signal and for the death of who started it."""

import os
import signal

import pytest

from athanor.tasks.trainer.process.stop_request import StopRequest


@pytest.fixture
def restore_signals():
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield
    for number, handler in handlers.items():
        signal.signal(number, handler)


def test_a_signal_asks_to_stop_and_so_does_another_parent(restore_signals):
    request = StopRequest.install()
    assert request.reason is None
    os.kill(os.getpid(), signal.SIGTERM)
    assert request.reason == "SIGTERM"
    assert StopRequest(ancestor_pid=1_000_000_000).reason == "parent process 1000000000 is gone"

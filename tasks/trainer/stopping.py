"""When training must stop early: SIGTERM, SIGINT, or the death of the process that started it.

A handler only sets a flag; the training loop reads it between steps, where saving is safe. A child that outlives a
killed parent would keep the GPU for ever, so the parent's process id is polled as well.
"""

from __future__ import annotations

import os
import signal

PARENT_VARIABLE = "ATHANOR_PARENT_PID"


class StopRequest:
    """Why to stop, once there is a reason."""

    def __init__(self, parent_pid: int | None = None):
        self._parent_pid = parent_pid if parent_pid is not None else os.getppid()
        self._signal: str | None = None

    @classmethod
    def install(cls) -> StopRequest:
        """Listen to SIGTERM and SIGINT, and watch the parent: the one that PARENT_VARIABLE names, else the current."""
        named = os.environ.get(PARENT_VARIABLE)
        request = cls(int(named) if named else None)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, request._on_signal)
        return request

    @property
    def reason(self) -> str | None:
        """`SIGTERM`, `SIGINT`, `parent process N is gone`, or None to go on."""
        if self._signal is None and os.getppid() != self._parent_pid:
            return f"parent process {self._parent_pid} is gone"
        return self._signal

    def _on_signal(self, number: int, frame: object) -> None:
        self._signal = signal.Signals(number).name

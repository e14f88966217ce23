"""When training must stop early: SIGTERM, SIGINT, or the death of the process that started it.

A handler only sets a flag; the training loop reads it where leaving is safe (stop_check.py). A child that outlives a
killed parent would keep the GPU for ever, so the parent's process id is polled as well.
"""

from __future__ import annotations

import os
import signal

import psutil

PARENT_VARIABLE = "ATHANOR_PARENT_PID"


class StopRequest:
    """Why to stop, once there is a reason. The parent is watched, and `ancestor_pid`, which is further away if a
    launcher stands between."""

    def __init__(self, ancestor_pid: int | None = None):
        self._parent_pid = os.getppid()
        self._ancestor_pid = ancestor_pid if ancestor_pid is not None else self._parent_pid
        self.signal: str | None = None  # the name of the first one that came

    @classmethod
    def install(cls) -> StopRequest:
        """Listen to SIGTERM and SIGINT, and watch the process that PARENT_VARIABLE names, if it names one."""
        named = os.environ.get(PARENT_VARIABLE)
        request = cls(int(named) if named else None)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, request._on_signal)
        return request

    @property
    def reason(self) -> str | None:
        """`SIGTERM`, `SIGINT`, `parent process N is gone`, or None to go on."""
        if self.signal is None and os.getppid() != self._parent_pid:
            return f"parent process {self._parent_pid} is gone"
        if self.signal is None and self._ancestor_pid != self._parent_pid and not _lives(self._ancestor_pid):
            return f"parent process {self._ancestor_pid} is gone"
        return self.signal

    def _on_signal(self, number: int, frame: object) -> None:
        self.signal = self.signal or signal.Signals(number).name


def _lives(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False

"""How a training process ends, said once for both sides: the process itself and the one that started it."""

from __future__ import annotations

import errno
from enum import IntEnum


class ExitCode(IntEnum):
    """Exit codes of `python -m athanor.tasks.trainer`; the last two follow sysexits.h."""

    DONE = 0
    FAILED = 1
    USER_ERROR = 2
    OUT_OF_MEMORY = 71
    IO_ERROR = 74
    PREEMPTED = 75


class Retryable(Exception):
    """Training stopped for a reason that running the same command again may cure."""


class Preempted(Retryable):
    """Asked to stop (SIGTERM, SIGINT, death of the parent) or killed by a signal."""


class OutOfMemory(Retryable):
    """The device or the machine had no memory left, even for one row at a time."""


class IoFailure(Retryable):
    """A disk was full, over quota or failing; earlier checkpoints are intact."""


_PEER_GONE = ("Connection closed by peer", "Connection reset by peer", "Broken pipe", "Connect timeout")
_MEDIUM_ERRORS = {
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EFBIG,
    errno.EIO,
    errno.EROFS,
    errno.ESTALE,
    errno.ETIMEDOUT,
    errno.ENODEV,
}


def exit_of(error: BaseException) -> ExitCode:
    """The exit code an exception of the training process ends in.

    A missing or forbidden file is a fault of the code or the set-up, not of the disk: those are FAILED.
    """
    from safetensors import SafetensorError
    from torch import OutOfMemoryError

    from athanor.core.errors import UserError

    if isinstance(error, Preempted):
        return ExitCode.PREEMPTED
    if isinstance(error, UserError):
        return ExitCode.USER_ERROR
    no_host_memory = isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
    if isinstance(error, OutOfMemoryError | MemoryError) or no_host_memory:
        return ExitCode.OUT_OF_MEMORY
    full_in_safetensors = isinstance(error, SafetensorError) and f"os error {errno.ENOSPC}" in str(error)
    if (isinstance(error, OSError) and error.errno in _MEDIUM_ERRORS) or full_in_safetensors:
        return ExitCode.IO_ERROR
    if lost_contact(error):
        return ExitCode.PREEMPTED
    return ExitCode.FAILED


def lost_contact(error: BaseException) -> bool:
    """Whether another rank went away: killed, or failed and said so itself."""
    from torch.distributed import DistError

    return isinstance(error, DistError) or (
        isinstance(error, RuntimeError) and any(sign in str(error) for sign in _PEER_GONE)
    )

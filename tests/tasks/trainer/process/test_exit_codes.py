"""Every way a training process ends has its code."""

import errno

import pytest
import torch

from athanor.core.errors import UserError
from athanor.tasks.trainer.process.exit_codes import ExitCode, Preempted, exit_of


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (Preempted(), ExitCode.PREEMPTED),
        (UserError("x"), ExitCode.USER_ERROR),
        (OSError(errno.ENOSPC, "No space left on device"), ExitCode.IO_ERROR),
        (torch.OutOfMemoryError(), ExitCode.OUT_OF_MEMORY),
        (MemoryError(), ExitCode.OUT_OF_MEMORY),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), ExitCode.OUT_OF_MEMORY),
        (FileNotFoundError(errno.ENOENT, "gone"), ExitCode.FAILED),
        (ValueError("a fault of ours"), ExitCode.FAILED),
    ],
)
def test_every_end_has_its_exit_code(error, code):
    assert exit_of(error) is code


@pytest.mark.parametrize("said", ["Connection closed by peer [127.0.0.1]:29500", "Connection reset by peer"])
def test_losing_contact_with_a_rank_is_a_preemption(said):
    assert exit_of(RuntimeError(f"[pair.cc:534] {said}")) is ExitCode.PREEMPTED
    assert exit_of(torch.distributed.DistNetworkError("gone")) is ExitCode.PREEMPTED

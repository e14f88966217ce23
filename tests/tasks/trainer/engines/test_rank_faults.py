"""Whatever goes wrong on one rank ends them all within seconds, with that rank's own words and the right kind."""

from __future__ import annotations

import os
import time
from pathlib import Path

import psutil
import pytest

from athanor.core.runtime import Runtime
from athanor.tasks.trainer.process.launch import IoFailure, run_trainer
from athanor.tasks.trainer.start import read_spec

FAULTY = Path(__file__).parent / "faulty"
PATIENCE_S = 25.0
FULL, BROKEN = "No space left on device", "Input/output error"


def ranks_of(folder: Path) -> list[psutil.Process]:
    return [
        process
        for process in psutil.process_iter(["cmdline"])
        if str(folder) in (process.info["cmdline"] or []) and "RANK" in _environment(process)
    ]


def _environment(process: psutil.Process) -> dict[str, str]:
    try:
        return process.environ()
    except psutil.Error:
        return {}


@pytest.mark.parametrize(
    ("engine", "fault", "kind", "said"),
    [
        ("ddp", "0 tensors ENOSPC", IoFailure, FULL),
        ("ddp", "1 sync ENOSPC", IoFailure, FULL),
        ("ddp", "0 state ENOSPC", IoFailure, FULL),
        ("ddp", "1 read EIO", IoFailure, BROKEN),
        ("ddp", "0 journal ENOSPC", IoFailure, FULL),
        ("fsdp", "1 tensors ENOSPC", IoFailure, FULL),
        ("fsdp", "1 update bug", RuntimeError, "KeyError: 'router'"),
    ],
)
def test_the_trouble_of_one_rank_ends_all_with_its_own_words(make_run, monkeypatch, engine, fault, kind, said):
    monkeypatch.setenv("FAULT", fault)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, (str(FAULTY), os.environ.get("PYTHONPATH")))))
    settings = {"engine": engine, "ranks": 2, "micro_batch_rows": 2, "checkpoint_every_steps": 2}
    folder = make_run("run", train={"steps": 1000, "eval_every_steps": 1000}, runtime=settings)
    runtime: Runtime = read_spec(folder).runtime
    reached = [time.monotonic()]

    with pytest.raises(kind, match=said) as error:
        run_trainer(folder, lambda row: reached.append(time.monotonic()), runtime)
    assert time.monotonic() - reached[-1] < PATIENCE_S
    assert "NoneType" not in str(error.value) and "another rank" not in str(error.value)
    assert ranks_of(folder) == []

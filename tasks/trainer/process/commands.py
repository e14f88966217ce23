"""The command and environment that start the ranks of a run on one machine, by the launcher of its engine."""

from __future__ import annotations

import sys
from pathlib import Path

from athanor.core.runtime import Runtime
from athanor.tasks.trainer.engines.kind import engine_of


def command(run_dir: Path, runtime: Runtime, node: int = 0) -> list[str]:
    """What to run on the machine number `node`."""
    launcher = engine_of(runtime).launcher.arguments(run_dir, runtime, node)
    return [sys.executable, "-P", "-m", *launcher, "athanor.tasks.trainer", str(run_dir)]


def environment(runtime: Runtime) -> dict[str, str]:
    """What the command needs beside the environment there is: no rank may import from the user's folder."""
    return {"PYTHONSAFEPATH": "1", **engine_of(runtime).launcher.environment(runtime)}

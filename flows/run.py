"""Running a flow from the command line: Prefect's engine in this process, one readable line per event."""

from __future__ import annotations

import importlib
import os
import sys
import time
from typing import Any

from data.errors import UserError
from data.store import home


def run_flow(name: str, preset: Any, rebuild: bool, verify: bool) -> None:
    """Run `<name>-flow` on a preset and print where its results are.

    Uses the Prefect server of PREFECT_API_URL if that is set, else a temporary one of its own.
    Raises UserError with the flow's own message when it fails for a reason the user can mend.
    """
    os.environ.setdefault("PREFECT_LOGGING_LEVEL", "INFO")
    os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
    home().mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    flow = getattr(importlib.import_module(f"flows.{name}"), f"{name}_flow")
    state = flow(preset, rebuild=rebuild, verify=verify, return_state=True)
    if not state.is_completed():
        if isinstance(state.data, UserError):
            raise state.data
        raise UserError(f"{name} ended {state.name}: {state.message}")
    print(f"athanor: {name} {preset.name} is done in {time.monotonic() - started:.1f} s", file=sys.stderr)

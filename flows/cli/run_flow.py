"""Running a flow from the command line, in this process.

Prefect is imported after its temporary server has been started, so that both start at once.
"""

from __future__ import annotations

import importlib
import os
import sys
import time

from athanor.core.disk import home
from athanor.core.errors import UserError
from athanor.core.numbers import duration
from athanor.flows.server.temporary import TemporaryServer
from athanor.tasks.preset_recipe import Preset


def run_flow(name: str, preset: Preset, rebuild: bool, verify: bool) -> None:
    """Run `<name>-flow` on a preset.

    Uses the Prefect server that Prefect's settings name, else a temporary one of its own. Raises UserError with the
    flow's own message when it fails for a reason the user can mend, and KeyboardInterrupt when stopped.
    """
    started = time.monotonic()
    temporary = None if os.environ.get("PREFECT_API_URL") else TemporaryServer()
    from prefect.settings import PREFECT_API_URL, temporary_settings

    from athanor.flows.plan.plan import check_ready

    check_ready(preset, name, rebuild)
    _make_home()
    flow = getattr(importlib.import_module(f"athanor.flows.{name}"), f"{name}_flow")
    url = temporary.wait() if temporary is not None else None
    try:
        with temporary_settings({PREFECT_API_URL: url} if url is not None else {}):
            state = flow(preset, rebuild=rebuild, verify=verify, return_state=True)
    except RuntimeError as error:
        if "Failed to reach API" not in str(error):
            raise
        raise UserError(f"{error}: start `prefect server start`, or unset PREFECT_API_URL") from None
    if not state.is_completed():
        error = state.result(raise_on_failure=False)
        if isinstance(error, UserError | KeyboardInterrupt):
            raise error
        raise UserError(f"{name} ended {state.name}: {state.message}")
    print(f"athanor: {name} {preset.name} is done in {duration(time.monotonic() - started)}", file=sys.stderr)


def _make_home() -> None:
    try:
        home().mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"ATHANOR_HOME={home()}: {error.strerror}; choose a folder you can write to") from None

"""Running a flow from the command line, in this process.

Prefect is imported after its temporary server has been started, so that both start at once.
"""

from __future__ import annotations

import importlib
import os
import time
from contextlib import nullcontext
from pathlib import Path

from rich.console import Console

from athanor.core.disk import home
from athanor.core.errors import UserError
from athanor.flows.cli.live import LiveStages
from athanor.flows.server.temporary import TemporaryServer
from athanor.tasks.preset_recipe import Preset


def run_flow(name: str, preset: Preset, rebuild: bool, verify: bool, verbose: bool = False) -> Path | None:
    """Run `<name>-flow` on a preset, say how it goes and what came of it, and return the report's page if it has one.

    `verbose` shows Prefect's own log instead of a line for each stage.

    Uses the Prefect server that Prefect's settings name, else a temporary one of its own. Raises UserError with the
    flow's own message when it fails for a reason the user can mend, and KeyboardInterrupt when stopped.
    """
    started = time.monotonic()
    temporary = None if os.environ.get("PREFECT_API_URL") else TemporaryServer(verbose)
    from prefect.exceptions import PrefectHTTPStatusError
    from prefect.settings import PREFECT_API_URL, temporary_settings

    from athanor.flows.cli.ending import print_ending
    from athanor.flows.plan.plan import check_ready

    check_ready(preset, name, rebuild)
    _make_home()
    console = Console(stderr=True)
    stages = LiveStages(console)
    flow = getattr(importlib.import_module(f"athanor.flows.{name}"), f"{name}_flow")
    url = temporary.wait() if temporary is not None else None
    try:
        shown = nullcontext() if verbose else stages.showing()
        with temporary_settings({PREFECT_API_URL: url} if url is not None else {}), shown:
            state = flow(preset, rebuild=rebuild, verify=verify, return_state=True)
    except RuntimeError as error:
        if "Failed to reach API" not in str(error):
            raise
        raise UserError(f"{error}: start `prefect server start`, or unset PREFECT_API_URL") from None
    except PrefectHTTPStatusError as error:
        words = temporary.last_words() if temporary is not None else ""
        raise UserError(
            f"the Prefect server answers {error.response.status_code}{words}: is its disk full? PREFECT_HOME names "
            "another; nothing that was built is lost"
        ) from None
    if not state.is_completed():
        error = state.result(raise_on_failure=False)
        if isinstance(error, UserError | KeyboardInterrupt):
            raise error
        raise UserError(f"{name} ended {state.name}: {state.message}")
    return print_ending(console, preset, name, stages.built, time.monotonic() - started)


def _make_home() -> None:
    try:
        home().mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"ATHANOR_HOME={home()}: {error.strerror}; choose a folder you can write to") from None

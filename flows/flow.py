"""How a lifecycle flow is made: a Prefect flow over a preset, failing in one line where the user can mend it."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

from prefect import flow

from athanor.core.errors import UserError
from athanor.flows.chain import Chain
from athanor.flows.plan.budget import Budget
from athanor.flows.plan.machine import priced
from athanor.flows.server.worker_folder import enter_worker_folder
from athanor.tasks.preset_recipe import Preset
from athanor.tasks.stage import stages_of

ENGINE_LOGGERS = ("prefect.flow_runs", "prefect.task_runs", "prefect.flow_engine", "prefect.task_engine")


def over_preset(name: str) -> Callable[[Callable[[Chain], None]], Any]:
    """Decorator: `body(chain)` becomes the Prefect flow `<name>-flow(preset, rebuild, verify)`."""

    def decorate(body: Callable[[Chain], None]) -> Any:
        def run(preset: Preset, rebuild: bool = False, verify: bool = False) -> None:
            for logger in ENGINE_LOGGERS:
                logging.getLogger(logger).addFilter(without_traceback)
            enter_worker_folder()
            preset = preset.model_copy(update={"runtime": priced(preset.runtime)})
            budget = Budget.of(preset)
            rebuilt = [stage.name for stage in stages_of(name)] if rebuild else []
            chain = Chain(preset, rebuilt, verify, budget.runtime_for if budget else None)
            chain.check()
            with budget.charged() if budget else nullcontext():
                body(chain)

        return flow(name=f"{name}-flow", description=body.__doc__, flow_run_name=f"{name} {{preset.name}}")(run)

    return decorate


def without_traceback(record: logging.LogRecord) -> bool:
    """Log filter: a mistake of the user's is its message alone; everything else keeps its traceback."""
    if record.exc_info and isinstance(record.exc_info[1], UserError):
        record.exc_info = None
    return True

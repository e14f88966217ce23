"""How a lifecycle flow is made: a Prefect flow over a preset, failing in one line where the user can mend it."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

from prefect import flow

from athanor.core.errors import UserError
from athanor.flows.chain import OWN_STAGES, Chain
from athanor.flows.plan.machine import priced
from athanor.flows.presets.preset import Preset

if TYPE_CHECKING:
    from athanor.flows.plan.budget import Budget

ENGINE_LOGGERS = ("prefect.flow_runs", "prefect.task_runs", "prefect.flow_engine", "prefect.task_engine")


def over_preset(name: str) -> Callable[[Callable[[Chain], None]], Any]:
    """Decorator: `body(chain)` becomes the Prefect flow `<name>-flow(preset, rebuild, verify)`."""

    def decorate(body: Callable[[Chain], None]) -> Any:
        def run(preset: Preset, rebuild: bool = False, verify: bool = False) -> None:
            for logger in ENGINE_LOGGERS:
                logging.getLogger(logger).addFilter(without_traceback)
            own = OWN_STAGES.get(name) or [stage for stages in OWN_STAGES.values() for stage in stages]
            budget = _budget(preset)
            runtime_of = budget.runtime_for if budget else lambda stage, artifact: priced(preset.runtime)
            chain = Chain(preset, own if rebuild else (), verify, runtime_of)
            chain.check()
            with budget.charged() if budget else nullcontext():
                body(chain)

        return flow(name=f"{name}-flow", description=body.__doc__, flow_run_name=f"{name} {{preset.name}}")(run)

    return decorate


def _budget(preset: Preset) -> Budget | None:
    if not preset.runtime.has_budget:
        return None
    from athanor.flows.plan.budget import Budget

    return Budget.of(preset)


def without_traceback(record: logging.LogRecord) -> bool:
    """Log filter: a mistake of the user's is its message alone; everything else keeps its traceback."""
    if record.exc_info and isinstance(record.exc_info[1], UserError):
        record.exc_info = None
    return True

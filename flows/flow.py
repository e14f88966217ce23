"""How a lifecycle flow is made: a Prefect flow over a preset, failing in one line where the user can mend it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

from prefect import flow, get_run_logger

from athanor.core.errors import UserError
from athanor.flows.chain import Chain
from athanor.flows.plan.machine import priced
from athanor.flows.plan.preflight import hub_findings
from athanor.flows.server.worker_folder import enter_worker_folder
from athanor.tasks.preset_recipe import Preset
from athanor.tasks.stage import stages_of

if TYPE_CHECKING:
    from athanor.flows.plan.budget import Budget

ENGINE_LOGGERS = ("prefect.flow_runs", "prefect.task_runs", "prefect.flow_engine", "prefect.task_engine")


def over_preset(name: str) -> Callable[[Callable[[Chain], None]], Any]:
    """Decorator: `body(chain)` becomes the Prefect flow `<name>-flow(preset, rebuild, verify)`."""

    def decorate(body: Callable[[Chain], None]) -> Any:
        def run(preset: Preset, rebuild: bool = False, verify: bool = False) -> None:
            for logger in ENGINE_LOGGERS:
                logging.getLogger(logger).addFilter(without_traceback)
            enter_worker_folder()
            rebuilt = [stage.name for stage in stages_of(name)] if rebuild else []
            _settle_hub(preset, name, rebuilt)
            budget = _budget(preset)
            runtime_of = budget.runtime_for if budget else lambda stage, artifact: priced(preset.runtime)
            chain = Chain(preset, rebuilt, verify, runtime_of)
            chain.check()
            with budget.charged() if budget else nullcontext():
                body(chain)

        with _untyped(run):
            return flow(name=f"{name}-flow", description=body.__doc__, flow_run_name=f"{name} {{preset.name}}")(run)

    return decorate


@contextmanager
def _untyped(function: Callable) -> Iterator[None]:
    """Takes the types off a function for a while. Prefect draws the form of a typed one when it becomes a flow, and
    again when it is deployed, where alone it is shown; drawing asks every kind for its names, and so loads torch."""
    types = dict(function.__annotations__)
    function.__annotations__.clear()
    yield
    function.__annotations__.update(types)


def _settle_hub(preset: Preset, name: str, rebuilt: list[str]) -> None:
    """Fix the commits that keys are made of, and say where a branch has moved on. UserError, a line for each, for what
    must be read and cannot be."""
    found = hub_findings(preset, name, rebuilt)
    for finding in found:
        if finding.level == "warning":
            get_run_logger().warning("%s: %s", finding.subject, finding.message)
    if errors := [f"{finding.subject}: {finding.message}" for finding in found if finding.level == "error"]:
        raise UserError("\n".join(errors))


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

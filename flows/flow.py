"""How a lifecycle flow is made: a Prefect flow over a preset, failing in one line where the user can mend it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from prefect import flow
from prefect.states import Failed

from data.errors import UserError
from flows.chain import OWN_STAGES, Chain
from flows.preset import Preset


def lifecycle_flow(name: str) -> Callable[[Callable[[Chain], None]], Any]:
    """Decorator: `body(chain)` becomes the Prefect flow `<name>-flow(preset, rebuild, verify)`."""

    def decorate(body: Callable[[Chain], None]) -> Any:
        def run(preset: Preset, rebuild: bool = False, verify: bool = False) -> Any:
            own = OWN_STAGES.get(name) or [stage for stages in OWN_STAGES.values() for stage in stages]
            try:
                body(Chain(preset, rebuild=own if rebuild else (), verify=verify))
            except UserError as error:
                return Failed(message=str(error), data=error)

        return flow(run, name=f"{name}-flow", description=body.__doc__, flow_run_name=f"{name} {{preset.name}}")

    return decorate

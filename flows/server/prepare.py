"""What a Prefect server needs to run our flows: the work pool, an end for dead runs, and the deployments.

A worker and its flow that die together leave the run `Running` for ever, because nothing is left to report its end.
The automation made here marks a run `Crashed` when its heartbeat stops.
"""

from __future__ import annotations

from datetime import timedelta

import httpx
from prefect.automations import Automation
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.client.schemas.objects import StateType
from prefect.events.actions import ChangeFlowRunState
from prefect.events.schemas.automations import EventTrigger, Posture
from prefect.events.schemas.events import ResourceSpecification
from prefect.exceptions import ObjectAlreadyExists
from prefect.settings import get_current_settings

from athanor.core.errors import UserError
from athanor.flows.server.deployments import WORK_POOL, deploy

AUTOMATION = "athanor: mark runs without heartbeat as crashed"
HEARTBEAT = "prefect.flow-run.heartbeat"
ENDS = (
    "prefect.flow-run.Completed",
    "prefect.flow-run.Failed",
    "prefect.flow-run.Cancelled",
    "prefect.flow-run.Crashed",
)
SILENCE = timedelta(seconds=90)  # three missed beats at PREFECT_FLOWS_HEARTBEAT_FREQUENCY=30


def prepare_server() -> tuple[list[str], int]:
    """Create work pool and automation where they are missing, and bring every deployment up to date.

    Returns what was created, and how many deployments there are. UserError where no server answers.
    """
    try:
        return _prepare()
    except (httpx.TransportError, httpx.InvalidURL, httpx.HTTPStatusError) as error:
        asked = get_current_settings().api.url
        raise UserError(
            f"the Prefect server at PREFECT_API_URL={asked} does not answer as one ({error}): start `prefect server "
            "start`, or set PREFECT_API_URL to one that runs"
        ) from None


def _prepare() -> tuple[list[str], int]:
    created = []
    with get_client(sync_client=True) as client:
        try:
            client.create_work_pool(WorkPoolCreate(name=WORK_POOL, type="process"))
            created.append(f"work pool {WORK_POOL}")
        except ObjectAlreadyExists:
            pass
        if not client.read_automations_by_name(AUTOMATION):
            _crash_silent_runs().create()
            created.append(f"automation {AUTOMATION!r}")
        return created, deploy(client)


def _crash_silent_runs() -> Automation:
    return Automation(
        name=AUTOMATION,
        trigger=EventTrigger(
            after={HEARTBEAT},
            expect={HEARTBEAT, *ENDS},
            match=ResourceSpecification({"prefect.resource.id": ["prefect.flow-run.*"]}),
            for_each={"prefect.resource.id"},
            posture=Posture.Proactive,
            threshold=1,
            within=SILENCE,
        ),
        actions=[
            ChangeFlowRunState(
                name=None, state=StateType.CRASHED, message="its heartbeat stopped: the process is gone", force=False
            )
        ],
    )

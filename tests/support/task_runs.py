"""What a Prefect server knows of task runs. It records them from events, some moments after they have ended."""

from __future__ import annotations

import time
from collections.abc import Collection
from typing import Any
from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient

PATIENCE_S = 60.0


def ended_task_runs(
    client: SyncPrefectClient, flow_run_ids: Collection[UUID | None], names: Collection[str]
) -> list[Any]:
    """The task runs of these flow runs, once those of the given names are recorded and all have ended."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        runs = [run for run in client.read_task_runs(limit=200) if run.flow_run_id in flow_run_ids]
        ended = all(run.state is not None and run.state.is_final() for run in runs)
        if ended and set(names) <= {run.name for run in runs}:
            return runs
        assert time.monotonic() < deadline, f"not recorded: {sorted(set(names) - {run.name for run in runs})}"
        time.sleep(0.1)

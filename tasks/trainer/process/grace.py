"""How long a run may take to stop when it is asked to, said by the process that knows to the one that would kill it.

    stopping.json   {"grace_s": 61.5}

A stop is taken after the slice at hand and takes a checkpoint, so both are measured; the margin is for a slower one.
"""

from __future__ import annotations

import json
from pathlib import Path

from athanor.core.disk import write_json
from athanor.core.run_files import STOPPING

LEAST_GRACE_S = 30.0
MARGIN = 3.0


class Grace:
    """Notes it in a run's folder whenever it has grown."""

    def __init__(self, run_dir: Path):
        self._path = run_dir / STOPPING
        self._noted_s = LEAST_GRACE_S

    def measured(self, slice_s: float, save_s: float) -> None:
        """The slowest slice and the slowest checkpoint yet, in seconds."""
        grace_s = LEAST_GRACE_S + MARGIN * (slice_s + save_s)
        if grace_s > self._noted_s + 1.0:
            self._noted_s = grace_s
            write_json(self._path, {"grace_s": round(grace_s, 1)})


def grace_s(run_dir: Path) -> float:
    """What the run's process noted; LEAST_GRACE_S if it has noted nothing that can be read."""
    try:
        return max(LEAST_GRACE_S, float(json.loads((run_dir / STOPPING).read_text(encoding="utf-8"))["grace_s"]))
    except (OSError, ValueError, KeyError, TypeError):
        return LEAST_GRACE_S

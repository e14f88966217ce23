"""How long ago an attempt at a run began, before it could keep an account of its own.

Whoever starts the process leaves the reading of the monotonic clock, which all processes of a machine share and nobody
sets. The time of day is no measure: it may differ by a day from what the kernel notes as the start of a process.
"""

from __future__ import annotations

import os
import sys
import time

STARTED_VARIABLE = "ATHANOR_STARTED_MONOTONIC_S"
LONGEST_START_S = 600.0  # from starting the launcher to the first line of the trainer's own; more is another machine's


def attempt_age_s() -> float:
    """Seconds since the attempt was started; 0 where nobody left word. A reading that cannot be true counts as 0, which
    is said on stderr."""
    if STARTED_VARIABLE not in os.environ:
        return 0.0
    try:
        age_s = time.monotonic() - float(os.environ[STARTED_VARIABLE])
    except ValueError:
        age_s = float("nan")
    if 0.0 <= age_s <= LONGEST_START_S:
        return age_s
    print(f"{STARTED_VARIABLE} says {age_s:.0f} s ago, which cannot be: the start is not charged", file=sys.stderr)
    return 0.0

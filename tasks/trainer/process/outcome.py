"""How an attempt of several ranks ended: said by the rank that knows, since launchers exit with 1 whatever happened.

    outcome.json    {"attempt": ..., "exit": 75, "message": "stopped at step 40: SIGTERM"}

The first rank of an attempt to leave one is believed: a rank that lost contact hears of it only after the rank that
failed has left its own. A rank that was killed leaves none. A rank that hears nothing, because it waits for the failed
one in a collective operation on a GPU, is ended once it has had PATIENCE_S to hear.
"""

from __future__ import annotations

import json
import os
import threading
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from athanor.core.run_files import OUTCOME
from athanor.tasks.trainer.process.exit_codes import ExitCode

PATIENCE_S = 10.0
_LOOK_EVERY_S = 2.0


@dataclass(frozen=True)
class Outcome:
    """Exit code and, in one line, why."""

    attempt: str
    exit: ExitCode
    message: str

    def leave(self, run_dir: Path) -> None:
        """Note it in the run's folder, unless another rank of the attempt has; nothing if that cannot be written."""
        path = run_dir / OUTCOME
        temporary = path.with_name(f"{OUTCOME}.{os.uname().nodename}.{os.getpid()}")
        with suppress(OSError):
            if (found := read_outcome(run_dir)) is not None and found.attempt != self.attempt:
                path.unlink(missing_ok=True)
            temporary.write_text(json.dumps(asdict(self)) + "\n", encoding="utf-8")
            try:
                os.link(temporary, path)
            except FileExistsError:
                pass
            finally:
                temporary.unlink()


def read_outcome(run_dir: Path) -> Outcome | None:
    """What the newest attempt left; None for nothing."""
    try:
        fields = json.loads((run_dir / OUTCOME).read_text(encoding="utf-8"))
        return Outcome(fields["attempt"], ExitCode(fields["exit"]), fields["message"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def end_with_the_others(run_dir: Path, attempt: str) -> None:
    """From now on, end this process some seconds after another rank of the attempt has failed. Ranks that were asked to
    stop have agreed on it, and each takes the time its save needs."""
    threading.Thread(target=_end_with_the_others, args=(run_dir, attempt), daemon=True).start()


def _end_with_the_others(run_dir: Path, attempt: str) -> None:
    while True:
        time.sleep(_LOOK_EVERY_S)
        found = read_outcome(run_dir)
        if found is not None and found.attempt == attempt and found.exit is not ExitCode.PREEMPTED:
            time.sleep(PATIENCE_S)
            os._exit(ExitCode.PREEMPTED)

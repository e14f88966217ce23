"""How an attempt of several ranks ended: said by the rank that knows, since launchers exit with 1 whatever happened.

    outcome.json    {"attempt": ..., "exit": 75, "message": "stopped at step 40: SIGTERM"}

The first rank of an attempt to leave one is believed: a rank that lost contact hears of it only after the rank that
failed has left its own. A rank that was killed leaves none.
"""

from __future__ import annotations

import json
import os
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from athanor.core.run_files import OUTCOME
from athanor.tasks.trainer.process.exit_codes import ExitCode


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
            temporary.write_text(json.dumps(asdict(self)) + "\n")
            try:
                os.link(temporary, path)
            except FileExistsError:
                pass
            finally:
                temporary.unlink()


def read_outcome(run_dir: Path) -> Outcome | None:
    """What the newest attempt left; None for nothing."""
    try:
        fields = json.loads((run_dir / OUTCOME).read_text())
        return Outcome(fields["attempt"], ExitCode(fields["exit"]), fields["message"])
    except (OSError, ValueError, KeyError, TypeError):
        return None

"""`python -m athanor.tasks.trainer RUN_DIR`: train the run described by RUN_DIR/run.json, or continue it.

It is one rank where torchrun or the deepspeed launcher starts it, and the whole run alone.

Exit codes: 0 complete; 75 stopped on request with everything saved, run it again; 71 out of memory; 74 disk trouble;
2 something the user can mend, said in one line; 1 anything else, with its traceback. Ranks also say it in outcome.json.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from athanor.tasks.trainer.process.age import attempt_age_s
from athanor.tasks.trainer.process.exit_codes import ExitCode, exit_of, lost_contact
from athanor.tasks.trainer.process.outcome import Outcome, end_with_the_others
from athanor.tasks.trainer.process.stop_request import StopRequest
from athanor.tasks.trainer.records.metrics import ATTEMPT_VARIABLE


def main(arguments: list[str]) -> ExitCode:
    """Train, and say in one line on stderr why not if it is not a fault of the code."""
    stop = StopRequest.install()
    if len(arguments) != 1:
        print("usage: python -m athanor.tasks.trainer RUN_DIR", file=sys.stderr)
        return ExitCode.USER_ERROR
    from athanor.tasks.trainer.process.world import disband
    from athanor.tasks.trainer.run import train

    run_dir, attempt = Path(arguments[0]).absolute(), os.environ.get(ATTEMPT_VARIABLE, "")
    if "RANK" in os.environ:
        end_with_the_others(run_dir, attempt)
    try:
        train(run_dir, stop, attempt_age_s())
    except Exception as error:
        code = exit_of(error)
        said = " ".join(str(error).split()) or type(error).__name__
        if code is ExitCode.IO_ERROR:
            said += f"; see to the disk of {run_dir} and run again: what was saved there is intact"
        elif code is ExitCode.FAILED:
            said = f"{type(error).__name__}: {said}"
        elif lost_contact(error):
            said = f"another rank is gone: {said}"
        if "RANK" in os.environ:
            Outcome(attempt, code, said).leave(run_dir)
        if code is ExitCode.FAILED:
            raise
        print(said, file=sys.stderr)
        return code
    finally:
        disband()
    return ExitCode.DONE


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

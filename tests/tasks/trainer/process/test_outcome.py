"""How an attempt of several ranks ended."""

import subprocess
import sys

import pytest

from athanor.tasks.trainer.process.exit_codes import ExitCode
from athanor.tasks.trainer.process.outcome import Outcome, read_outcome


def test_the_first_rank_of_an_attempt_is_believed_and_another_attempt_is_not(tmp_path):
    Outcome("old", ExitCode.FAILED, "long ago").leave(tmp_path)
    Outcome("new", ExitCode.OUT_OF_MEMORY, "no memory").leave(tmp_path)
    Outcome("new", ExitCode.PREEMPTED, "another rank is gone").leave(tmp_path)
    assert read_outcome(tmp_path) == Outcome("new", ExitCode.OUT_OF_MEMORY, "no memory")
    assert [path.name for path in tmp_path.iterdir()] == ["outcome.json"]


WAITS = """
import sys, time
from pathlib import Path
from athanor.tasks.trainer.process import outcome
outcome.PATIENCE_S, outcome._LOOK_EVERY_S = 0.1, 0.1
outcome.end_with_the_others(Path(sys.argv[1]), "new")
time.sleep(float(sys.argv[2]))
"""


@pytest.mark.parametrize(
    ("attempt", "exit_code", "ends_as"),
    [("new", ExitCode.FAILED, 75), ("new", ExitCode.PREEMPTED, 0), ("old", ExitCode.FAILED, 0)],
)
def test_a_rank_that_waits_for_one_that_failed_is_ended_and_one_that_saves_is_not(
    tmp_path, attempt, exit_code, ends_as
):
    Outcome(attempt, exit_code, "it ended").leave(tmp_path)
    waits_s = 60 if ends_as else 1
    ended = subprocess.run([sys.executable, "-c", WAITS, str(tmp_path), str(waits_s)], timeout=50)
    assert ended.returncode == ends_as

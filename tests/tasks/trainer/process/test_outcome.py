"""How an attempt of several ranks ended."""

from athanor.tasks.trainer.process.exit_codes import ExitCode
from athanor.tasks.trainer.process.outcome import Outcome, read_outcome


def test_the_first_rank_of_an_attempt_is_believed_and_another_attempt_is_not(tmp_path):
    Outcome("old", ExitCode.FAILED, "long ago").leave(tmp_path)
    Outcome("new", ExitCode.OUT_OF_MEMORY, "no memory").leave(tmp_path)
    Outcome("new", ExitCode.PREEMPTED, "another rank is gone").leave(tmp_path)
    assert read_outcome(tmp_path) == Outcome("new", ExitCode.OUT_OF_MEMORY, "no memory")
    assert [path.name for path in tmp_path.iterdir()] == ["outcome.json"]

"""metrics.jsonl: what survives a crash, and what a resume drops."""

from athanor.core.rows import read_rows
from athanor.tasks.trainer.records.metrics import MetricsLog


def test_resume_drops_steps_and_evaluations_beyond_the_checkpoint_and_keeps_events(tmp_path):
    log = MetricsLog(tmp_path, 0, "first", [])
    for step in (1, 2, 3):
        log.step(step, loss=float(step))
    log.evaluation(2, {})
    log.evaluation(3, {})
    log.event(3, "something happened")
    log.close()

    resumed = MetricsLog(tmp_path, 2, "second", [])
    resumed.close()
    rows = [(row["kind"], row["step"]) for row in read_rows(tmp_path / "metrics.jsonl")]
    assert rows == [("event", 0), ("step", 1), ("step", 2), ("eval", 2), ("event", 3), ("event", 2)]
    assert resumed.evaluated(2)
    assert not resumed.evaluated(3)

"""The parent reads the rows of its own attempt, each once."""

from athanor.tasks.trainer.process.launch import MetricsTail
from athanor.tasks.trainer.records.metrics import MetricsLog


def test_the_tail_gives_each_row_of_its_own_attempt_once(tmp_path):
    tail = MetricsTail(tmp_path / "metrics.jsonl", "second")
    assert list(tail.new_rows()) == []
    first = MetricsLog(tmp_path, 0, "first", [])
    first.step(1, loss=1.0)
    first.step(2, loss=2.0)
    assert list(tail.new_rows()) == []

    second = MetricsLog(tmp_path, 1, "second", [])
    second.step(2, loss=2.5)
    assert [row.get("loss") for row in tail.new_rows()] == [None, 2.5]
    second.step(3, loss=3.0)
    with open(tmp_path / "metrics.jsonl", "ab") as file:
        file.write(b'{"kind": "step", "loss"')
        file.flush()
        assert [row["loss"] for row in tail.new_rows()] == [3.0]
        file.write(b": 4.0}\n")
    assert [row["loss"] for row in tail.new_rows()] == [4.0]

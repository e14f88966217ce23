"""metrics.jsonl, ledger.jsonl: what survives a crash, what a resume drops, what the parent sees."""

from dataclasses import asdict

import pytest

from athanor.core.rows import read_rows
from athanor.tasks.trainer.process.launch import MetricsTail
from athanor.tasks.trainer.records.ledger import Ledger, LedgerTotal, ledger_total
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


def test_ledger_adds_up_over_attempts_even_when_an_attempt_dies(tmp_path, monkeypatch):
    now = [0.0]
    monkeypatch.setattr("athanor.tasks.trainer.records.ledger.time.monotonic", lambda: now[0])
    died = Ledger(tmp_path, "first", devices=2, price_usd_per_hour=3.6)
    for now[0] in range(1, 25):
        died.tick()
    assert asdict(ledger_total(tmp_path)) == pytest.approx({"device_s": 40.0, "usd": 0.020})

    second = Ledger(tmp_path, "second", devices=2, price_usd_per_hour=3.6)
    now[0] += 5
    assert second.usd == pytest.approx(0.025)
    second.close()
    assert asdict(ledger_total(tmp_path)) == pytest.approx({"device_s": 50.0, "usd": 0.025})


def test_ledger_of_a_run_that_never_started_is_zero(tmp_path):
    assert ledger_total(tmp_path) == LedgerTotal(0, 0)

"""The ledger: what every attempt used, whatever became of it."""

from dataclasses import asdict

import pytest

from athanor.tasks.trainer.records.ledger import Ledger, LedgerTotal, ledger_total


def test_ledger_adds_up_over_attempts_even_when_an_attempt_dies(tmp_path, monkeypatch):
    now = [0.0]
    monkeypatch.setattr("athanor.tasks.trainer.records.ledger.time.monotonic", lambda: now[0])
    died = Ledger(tmp_path, "first", devices=2, price_usd_per_hour=1.8)
    for now[0] in range(1, 25):
        died.tick()
    assert asdict(ledger_total(tmp_path)) == pytest.approx({"wall_s": 20.0, "device_s": 40.0, "usd": 0.020})

    second = Ledger(tmp_path, "second", devices=2, price_usd_per_hour=1.8)
    now[0] += 5
    assert (second.usd, second.device_s) == pytest.approx((0.025, 50.0))
    second.close()
    assert asdict(ledger_total(tmp_path)) == pytest.approx({"wall_s": 25.0, "device_s": 50.0, "usd": 0.025})


def test_an_attempt_pays_for_its_start_and_for_its_last_seconds(tmp_path, monkeypatch):
    now = [100.0]
    monkeypatch.setattr("athanor.tasks.trainer.records.ledger.time.monotonic", lambda: now[0])
    ledger = Ledger(tmp_path, "only", devices=2, price_usd_per_hour=1800.0, running_s=7.0)
    assert (ledger.usd, ledger.device_s) == pytest.approx((7.0, 14.0))
    ledger.tick()
    now[0] += 1.0  # less than a row is written for
    ledger.close()
    assert asdict(ledger_total(tmp_path)) == pytest.approx({"wall_s": 8.0, "device_s": 16.0, "usd": 8.0})


def test_ledger_of_a_run_that_never_started_is_zero(tmp_path):
    assert ledger_total(tmp_path) == LedgerTotal(0, 0, 0)


def test_rows_without_wall_seconds_are_of_one_device(tmp_path):
    (tmp_path / "ledger.jsonl").write_text('{"attempt": "a", "time": 0.0, "device_s": 7.0, "usd": 0.5}\n')
    assert ledger_total(tmp_path) == LedgerTotal(7, 7, 0.5)

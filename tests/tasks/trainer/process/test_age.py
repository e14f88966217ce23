"""The age of an attempt is read from a clock that nobody sets."""

from __future__ import annotations

import time

import pytest

from athanor.tasks.trainer.process.age import STARTED_VARIABLE, attempt_age_s


@pytest.fixture
def started(monkeypatch):
    """Let an attempt have begun at a reading of the monotonic clock, which stands at 1000 s; the day's is a day off."""
    monkeypatch.setattr(time, "monotonic", lambda: 1000.0)
    monkeypatch.setattr(time, "time", lambda: 1000.0 + 86_400)
    return lambda reading: monkeypatch.setenv(STARTED_VARIABLE, reading)


def test_the_age_is_that_of_the_monotonic_clock(started, capsys):
    started("990.5")
    assert attempt_age_s() == 9.5
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("reading", ["1000.1", "-85400", "nan", "yesterday"])
def test_what_cannot_be_is_not_charged_and_said(started, capsys, reading):
    started(reading)
    assert attempt_age_s() == 0.0
    assert "which cannot be: the start is not charged" in capsys.readouterr().err


def test_an_attempt_that_nobody_timed_has_no_age(monkeypatch, capsys):
    monkeypatch.delenv(STARTED_VARIABLE, raising=False)
    assert attempt_age_s() == 0.0
    assert capsys.readouterr().err == ""

"""A stop is taken between slices and batches, at the same place on every rank."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from athanor.tasks.trainer.process import stop_check
from athanor.tasks.trainer.process.stop_check import StopAsked, StopCheck
from athanor.tasks.trainer.process.world import ALONE

ASKED, NOT_ASKED = (SimpleNamespace(reason=signal, signal=signal) for signal in ("SIGTERM", None))


class Clock:
    """Seconds that pass only when told to."""

    def __init__(self):
        self.now_s = 0.0

    def monotonic(self) -> float:
        return self.now_s


@pytest.fixture
def clock(monkeypatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(stop_check, "time", clock)
    return clock


class TwoRanks:
    """The world of one of two ranks, whose other says what `other` holds."""

    size = 2

    def __init__(self):
        self.asked = 0
        self.other = (None, 0.0)

    def gather(self, value):
        self.asked += 1
        return [value, self.other]


def test_alone_a_signal_is_taken_at_the_next_slice():
    StopCheck(NOT_ASKED, ALONE).within_step()
    with pytest.raises(StopAsked, match="SIGTERM"):
        StopCheck(ASKED, ALONE).within_step()


def test_the_death_of_the_parent_waits_for_the_end_of_the_step():
    check = StopCheck(SimpleNamespace(reason="parent process 7 is gone", signal=None), ALONE)
    check.within_step()
    with pytest.raises(StopAsked, match="parent process 7"):
        check.between_steps()


def test_a_rank_that_was_asked_leaves_only_where_all_ask_one_another(clock):
    world = TwoRanks()
    check = StopCheck(NOT_ASKED, world)
    check.between_steps()
    asked = []
    for _ in range(25):
        clock.now_s += 0.1999
        before = world.asked
        check.within_step()
        asked.append(world.asked - before)
    assert asked == [1, *[0, 0, 0, 0, 1] * 4, 0, 0, 0, 0], "five slices of 0.2 s are a second"
    world.other = ("SIGTERM", 0.2)
    with pytest.raises(StopAsked, match="SIGTERM"):
        check.within_step()


def test_the_slowest_rank_decides_when_all_ask_again(clock):
    world = TwoRanks()
    world.other = (None, 5.0)
    check = StopCheck(NOT_ASKED, world)
    for _ in range(4):
        clock.now_s += 0.01
        check.within_step()
    assert world.asked == 4


def test_the_slowest_way_between_two_places_is_kept(clock):
    check = StopCheck(NOT_ASKED, ALONE)
    for seconds in (1.0, 7.0, 2.0):
        clock.now_s += seconds
        check.within_step()
    clock.now_s += 100.0  # a checkpoint
    check.between_steps()
    assert check.slowest_s == 7.0

"""The shares of what overlaps add up to the time that passed."""

from __future__ import annotations

import pytest

from athanor.core.shared_time import SharedTime


def test_every_moment_is_divided_among_what_goes_on_in_it():
    now = 100.0
    shared = SharedTime(lambda: now)
    with shared.share() as first:
        now += 3  # alone
        with shared.share() as second:
            now += 4  # two
            with shared.share() as third:
                now += 6  # three
        now += 1  # alone again
    now += 50  # nobody's
    with shared.share() as last:
        now += 5
    assert [first.seconds, second.seconds, third.seconds, last.seconds] == pytest.approx([8, 4, 2, 5])


def test_what_fails_has_its_share_too_and_takes_none_of_what_comes_after():
    now = 0.0
    shared = SharedTime(lambda: now)
    with pytest.raises(KeyError), shared.share() as failed:
        now += 2
        raise KeyError
    with shared.share() as after:
        now += 3
    assert (failed.seconds, after.seconds) == (2, 3)

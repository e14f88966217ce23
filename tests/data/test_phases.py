"""Phases: which of them a step belongs to."""

from __future__ import annotations

import pytest

from athanor.data.phases import Phase, phase_at


@pytest.mark.parametrize(("step", "phase"), [(0, 0), (9, 0), (10, 1), (11, 1), (99, 2)])
def test_a_phase_lasts_until_the_next_begins(step, phase):
    assert phase_at([Phase(0, 1, 4), Phase(10, 2, 2), Phase(99, 4, 1)], step) == phase

"""The course: as planned until it is cut or cooled, annealed at its end in every case."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from athanor.tasks.trainer.course.course import Course
from athanor.tasks.trainer.train_recipe import TrainRecipe

SCHEDULES = ("cosine", "wsd", "trapezoid", "linear", "constant")


def course(**fields) -> Course:
    return Course(
        TrainRecipe.model_validate(
            {"steps": 100, "seq_len_tokens": 8, "batch_tokens": 8, "peak_lr": 1.0, "warmup_steps": 10} | fields
        )
    )


def test_progress_is_the_share_of_the_steps_exactly():
    assert [course().progress(step) for step in range(101)] == [step / 100 for step in range(101)]


def test_a_cut_is_felt_only_after_it_and_everything_still_reaches_its_end():
    planned = course(schedule="wsd")
    cut = planned.cut(40, 60)
    assert cut.end == 60
    before = range(41)
    assert [cut.learning_rate(s) for s in before] == [planned.learning_rate(s) for s in before]
    assert [cut.progress(s) for s in before] == [planned.progress(s) for s in before]
    assert cut.progress(50) == pytest.approx(0.4 + 0.6 / 2)
    assert cut.progress(60) == 1.0
    assert cut.learning_rate(50) == pytest.approx(0.5)
    assert cut.learning_rate(60) == 0.0


def test_a_cut_that_leaves_more_than_the_decay_stays_at_the_peak_until_the_decay():
    cut = course(schedule="wsd", decay_fraction=0.1).cut(40, 60)
    assert {cut.learning_rate(s) for s in range(40, 51)} == {1.0}
    assert cut.learning_rate(55) == pytest.approx(0.5)


def test_of_several_cuts_the_last_says_where_the_run_ends():
    twice = course(schedule="wsd").cut(40, 60).cut(50, 55)
    assert (twice.end, twice.progress(55), twice.learning_rate(55)) == (55, 1.0, 0.0)


def test_a_cool_down_keeps_the_end_and_only_falls_earlier():
    cooled = course(schedule="constant", min_lr_fraction=0.1).cool_down(50)
    assert (cooled.end, cooled.learning_rate(50), cooled.progress(75)) == (100, 1.0, 0.75)
    assert cooled.learning_rate(75) == pytest.approx(0.55)
    assert cooled.learning_rate(100) == pytest.approx(0.1)
    assert cooled.cool_down(60) == cooled


@given(
    schedule=st.sampled_from(SCHEDULES),
    cuts=st.lists(st.tuples(st.integers(10, 99), st.integers(0, 50)), max_size=3),
    floor=st.sampled_from([0.0, 0.1]),
)
def test_rate_and_progress_stay_in_bounds_and_survive_the_checkpoint(schedule, cuts, floor):
    planned = course(schedule=schedule, min_lr_fraction=floor)
    one, step = planned, 0
    for at, more in sorted(cuts):
        if at < one.end:
            step, one = at, one.cut(at, min(one.end, at + more))
    assert Course.restored(one.recipe, one.state()) == one
    rates = [one.learning_rate(s) for s in range(step, one.end + 1)]
    progress = [one.progress(s) for s in range(one.end + 1)]
    assert all(0.0 <= rate <= 1.0 for rate in rates)
    assert progress == sorted(progress)
    if one.cuts and one.end > step:
        assert rates == sorted(rates, reverse=True)
        assert rates[-1] == pytest.approx(min(floor, 1.0))
        assert progress[-1] == pytest.approx(1.0)

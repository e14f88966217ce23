"""The guard's verdicts, and that they survive a checkpoint."""

import json
import math

import pytest

from athanor.tasks.trainer.course.guard import FEWEST, Guard
from athanor.tasks.trainer.train_recipe import GuardRecipe

NAN, INF = float("nan"), float("inf")


def guard(good_steps: int = 40, **fields) -> Guard:
    """A guard after good steps whose loss falls slowly from 3.0, with noise."""
    made = Guard(GuardRecipe.model_validate(fields))
    for step in range(good_steps):
        made.accept(3.0 - 0.01 * step + 0.02 * (-1) ** step, 1.0 + 0.1 * (-1) ** step)
    return made


@pytest.mark.parametrize("good_steps", [0, 40])
@pytest.mark.parametrize(("loss", "norm"), [(NAN, 1.0), (INF, 1.0), (2.7, NAN), (2.7, INF)])
def test_what_is_not_finite_is_bad_from_the_first_step_on(good_steps, loss, norm):
    assert guard(good_steps).problem(loss, norm)


def test_a_spike_is_bad_and_the_noise_of_good_steps_is_not():
    subject = guard()
    assert subject.problem(2.65, 1.2) is None
    assert "loss 5 is a spike" in (subject.problem(5.0, 1.0) or "")
    assert "gradient norm 30 is a spike" in (subject.problem(2.65, 30.0) or "")
    assert subject.problem(0.5, 0.01) is None, "better than ever is not bad"


def test_nothing_finite_is_a_spike_before_there_is_a_scale():
    assert guard(FEWEST - 1).problem(50.0, 50.0) is None


def test_where_losses_hardly_differ_two_percent_of_them_and_a_quarter_of_the_log_norm_are_the_scale():
    subject = Guard(GuardRecipe(spike=5.0))
    for _ in range(FEWEST):
        subject.accept(2.0, 1.0)
    assert subject.problem(2.0 * 1.09, math.exp(1.2)) is None
    assert "loss 2.22 is a spike" in (subject.problem(2.0 * 1.11, 1.0) or "")
    assert "gradient norm 3.669 is a spike" in (subject.problem(2.0, math.exp(1.3)) or "")


def test_bad_values_never_move_the_scale():
    subject = guard()
    for _ in range(2):
        assert subject.problem(50.0, 1.0)
        subject.skip()
    assert subject.problem(50.0, 1.0)
    assert subject.problem(2.65, 1.0) is None


def test_only_skips_in_a_row_ask_for_a_rollback():
    subject = guard(skips=2)
    assert not subject.skip()
    subject.accept(2.6, 1.0)
    assert not subject.skip()
    assert subject.skip()


def test_rollbacks_are_counted_and_end():
    subject, anchor = guard(skips=1, rollbacks=2), guard(20)
    assert [subject.rolled_back(anchor) for _ in range(3)] == [True, True, False]
    assert subject.state()["losses"] == anchor.state()["losses"]


def test_the_state_goes_through_json_and_decides_alike():
    subject = guard(skips=3, cooldown_rise=0.05)
    subject.skip()
    subject.should_cool_down(50, 100)
    twin = Guard.restored(subject.recipe, json.loads(json.dumps(subject.state())))
    assert twin.state() == subject.state()
    assert [twin.problem(loss, 1.0) for loss in (2.65, 2.9, 5.0)] == [
        subject.problem(loss, 1.0) for loss in (2.65, 2.9, 5.0)
    ]


def test_a_sustained_rise_cools_down_once_patience_and_half_the_training_are_over():
    def asked(rise: float, first: int) -> list[bool]:
        subject = guard(100, cooldown_rise=0.05, cooldown_patience=3)
        subject.should_cool_down(first - 10, 200)
        for _ in range(300):
            subject.accept(2.0 * rise, 1.0)
        return [subject.should_cool_down(step, 200) for step in (first, first, first + 10, first + 20)]

    assert asked(rise=2.0, first=110) == [False, False, False, True]
    assert asked(rise=2.0, first=50) == [False] * 4, "not in the first half"
    assert asked(rise=1.0, first=110) == [False] * 4


def test_a_rise_that_passes_begins_to_count_anew():
    subject = guard(100, cooldown_rise=0.05, cooldown_patience=2)
    found = []
    for step, loss in ((100, 2.0), (110, 4.0), (120, 1.0), (130, 4.0), (140, 4.0)):
        for _ in range(600):
            subject.accept(loss, 1.0)
        found.append(subject.should_cool_down(step, 200))
    assert found == [False, False, False, False, True]


def test_without_the_option_it_never_cools_down():
    subject = guard()
    for _ in range(300):
        subject.accept(30.0, 1.0)
    assert not any(subject.should_cool_down(step, 100) for step in range(50, 100, 10))
    assert math.isfinite(subject.state()["loss_sum"])

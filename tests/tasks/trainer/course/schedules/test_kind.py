"""Learning-rate schedules: their shapes, and that one more is one more declaration."""

import math

import pytest
from pydantic import ValidationError

from athanor.tasks.trainer.course.course import Course
from athanor.tasks.trainer.course.schedules.kind import SCHEDULES
from athanor.tasks.trainer.train_recipe import TrainRecipe


def recipe(**fields) -> TrainRecipe:
    return TrainRecipe.model_validate(
        {"steps": 100, "seq_len_tokens": 8, "batch_tokens": 8, "peak_lr": 0.01, "warmup_steps": 10} | fields
    )


def learning_rate(of: TrainRecipe, step: int) -> float:
    return Course(of).learning_rate(step)


@pytest.mark.parametrize("schedule", list(SCHEDULES))
def test_warm_up_starts_at_one_share_of_the_peak_and_reaches_it(schedule):
    rates = [learning_rate(recipe(schedule=schedule), step) for step in range(11)]
    assert rates[0] == pytest.approx(0.01 / 10)
    assert rates[4] == pytest.approx(0.01 * 5 / 10)
    assert rates[9] == rates[10] == pytest.approx(0.01)


def test_without_warm_up_the_first_step_is_at_the_peak():
    assert learning_rate(recipe(warmup_steps=0), 0) == 0.01


def test_cosine_is_half_way_in_the_middle_and_ends_at_the_floor():
    cosine = recipe(min_lr_fraction=0.1)
    assert learning_rate(cosine, 55) == pytest.approx(0.01 * 0.55)
    assert learning_rate(cosine, 100) == pytest.approx(0.001)
    rates = [learning_rate(cosine, step) for step in range(10, 101)]
    assert rates == sorted(rates, reverse=True)


@pytest.mark.parametrize(("schedule", "quarter"), [("trapezoid", 0.75), ("wsd", (1 + math.cos(math.pi / 4)) / 2)])
def test_a_stable_schedule_is_flat_then_falls_to_the_floor(schedule, quarter):
    stable = recipe(schedule=schedule, decay_fraction=0.2, min_lr_fraction=0.5)
    assert {learning_rate(stable, step) for step in range(9, 81)} == {0.01}
    assert learning_rate(stable, 85) == pytest.approx(0.01 * (0.5 + 0.5 * quarter))
    assert learning_rate(stable, 90) == pytest.approx(0.01 * 0.75)
    assert learning_rate(stable, 100) == pytest.approx(0.01 * 0.5)


def test_linear_falls_from_the_warm_up_on_and_constant_never():
    assert learning_rate(recipe(schedule="linear"), 55) == pytest.approx(0.005)
    assert learning_rate(recipe(schedule="linear"), 100) == 0.0
    assert {learning_rate(recipe(schedule="constant"), step) for step in range(9, 101)} == {0.01}


def test_a_decay_longer_than_the_run_begins_after_the_warm_up():
    trapezoid = recipe(schedule="trapezoid", decay_fraction=1.0)
    assert learning_rate(trapezoid, 10) == 0.01
    assert learning_rate(trapezoid, 55) == pytest.approx(0.005)


ROOT = """
import math
from athanor.tasks.trainer.course.schedules.kind import Schedule
DECLARED = Schedule("root", lambda progress: 1 - math.sqrt(progress), stable=True)
"""


def test_a_schedule_of_one_file_is_followed(plant_module):
    with pytest.raises(ValidationError, match=r"Input should be .*'cosine', .* or 'constant'"):
        recipe(schedule="root")
    plant_module(SCHEDULES, "root", ROOT)
    root = recipe(schedule="root", decay_fraction=0.2, guard={"cooldown_rise": 0.1})
    assert {learning_rate(root, step) for step in range(9, 81)} == {0.01}
    assert learning_rate(root, 85) == pytest.approx(0.01 * 0.5)
    assert Course(root).decaying(80) and not Course(root).decaying(79)
    with pytest.raises(ValidationError, match=r"stable phase to end early \(.*wsd, trapezoid, constant, root\)"):
        recipe(guard={"cooldown_rise": 0.1})

"""The budget on a simulated clock: never overspent by more than a checkpoint interval, and annealed at the end."""

import math
import random
from dataclasses import dataclass

import pytest

from athanor.tasks.trainer.course.course import Course
from athanor.tasks.trainer.course.pace import FEWEST_STEPS, RECENT_STEPS, WARMING_STEPS, Pace, revised
from athanor.tasks.trainer.train_recipe import TrainRecipe

SCENARIOS = 10_000


def recipe(steps: int, schedule: str = "wsd", decay_fraction: float = 0.2) -> TrainRecipe:
    return TrainRecipe.model_validate(
        {"steps": steps, "seq_len_tokens": 8, "batch_tokens": 8, "peak_lr": 1.0, "warmup_steps": 2}
        | {"schedule": schedule, "decay_fraction": decay_fraction}
    )


def test_a_budget_that_suffices_changes_nothing():
    planned = Course(recipe(100))
    assert revised(planned, 10, left_s=91.0, step_s=1.0, closing_s=1.0) is planned
    assert revised(planned, 90, left_s=11.0, step_s=1.0, closing_s=1.0) is planned  # in its decay


def test_the_decision_waits_until_only_the_decay_fits():
    planned = Course(recipe(100))
    assert revised(planned, 10, left_s=50.0, step_s=1.0, closing_s=0.0) is planned
    cut = revised(planned, 40, left_s=20.0, step_s=1.0, closing_s=0.0)
    assert cut.end == 40 + math.floor(20 * 0.97)
    assert cut.decay_from == 40


def test_at_the_wall_the_run_ends_where_it_is():
    assert revised(Course(recipe(100)), 40, left_s=1.5, step_s=1.0, closing_s=1.0).end == 40
    assert revised(Course(recipe(100)), 40, left_s=-5.0, step_s=1.0, closing_s=1.0).end == 40


@dataclass
class Outcome:
    """What a simulated run spent beyond its budget, the price of a checkpoint interval, and where it ended."""

    overspent_usd: float
    interval_usd: float
    course: Course


def simulate(rng: random.Random) -> Outcome:
    """Attempts that are killed at random, a GPU that changes speed, a price that changes with every attempt."""
    steps, schedule = rng.randint(20, 150), rng.choice(["wsd", "cosine", "trapezoid"])
    kept, kept_step = Course(recipe(steps, schedule, rng.choice([0.1, 0.2]))), 0
    base_s = rng.uniform(0.5, 3)
    start_s, save_s, save_every = rng.uniform(0, 2) * base_s, rng.uniform(0, 1) * base_s, rng.randint(5, 30)
    crash = rng.choice([0.0, 0.01, 0.05])
    budget_usd = start_s + (rng.uniform(0.05, 1.2) * steps + 5) * base_s
    spent_usd, dearest = 0.0, 0.0
    while True:
        price = rng.choice([0.5, 1.0, 1.5])  # USD a second: known when an attempt starts, fixed while it lasts
        dearest = max(dearest, price)
        budget_s, used_s = (budget_usd - spent_usd) / price, start_s
        course, step, speed, recent = kept, kept_step, 1.0, []
        alive = True
        while alive:
            step_s = sum(recent[-64:]) / len(recent[-64:]) if recent else 0.001
            course = revised(course, step, budget_s - used_s, step_s, 2 * save_s + step_s)
            if step >= course.end:
                break
            speed = rng.choice([0.5, 1.0, 2.0]) if rng.random() < 0.02 else speed
            took_s = base_s * speed * rng.uniform(0.9, 1.1)
            step += 1
            if step % save_every == 0:
                took_s += save_s
                kept, kept_step = course, step
            used_s += took_s
            recent.append(took_s)
            alive = rng.random() >= crash
        spent_usd += (used_s + (2 * save_s if alive else 0.0)) * price
        if alive:
            return Outcome(spent_usd - budget_usd, (save_every * base_s + save_s) * dearest, course)


def test_no_scenario_overspends_by_more_than_a_checkpoint_interval():
    rng = random.Random(20261124)
    cut = 0
    for _ in range(SCENARIOS):
        outcome = simulate(rng)
        assert outcome.overspent_usd <= outcome.interval_usd, outcome
        cut += bool(outcome.course.cuts)
    assert cut > SCENARIOS / 4, "the budget was hardly ever tested"


@pytest.mark.parametrize("schedule", ["wsd", "cosine", "trapezoid"])
def test_a_shortened_run_on_a_steady_machine_ends_annealed(schedule):
    planned = Course(recipe(200, schedule))
    for budget_s in (40.0, 90.0, 150.0):
        course, step = planned, 0
        while step < course.end:
            step += 1
            course = revised(course, step, budget_s - step, 1.0, 2.0)
        assert budget_s * 0.9 <= step <= budget_s
        assert course.learning_rate(step) == pytest.approx(0.0, abs=1e-9)
        assert course.progress(step) == pytest.approx(1.0)
        assert course.learning_rate(step - 1) < 0.1


def test_a_run_is_not_judged_by_its_slow_first_steps(monkeypatch):
    now = [0.0]
    monkeypatch.setattr("athanor.tasks.trainer.course.pace.time.monotonic", lambda: now[0])
    pace = Pace()
    seen = []
    for took_s in (60.0, *[9.0] * (WARMING_STEPS - 1), *[1.0] * FEWEST_STEPS):
        now[0] += took_s
        assert pace.step_done() == took_s
        seen.append(pace.step_s)
    assert seen == [None] * (len(seen) - 1) + [1.0]


def test_a_run_is_judged_by_its_recent_steps(monkeypatch):
    now = [0.0]
    monkeypatch.setattr("athanor.tasks.trainer.course.pace.time.monotonic", lambda: now[0])
    pace = Pace()
    for took_s in [5.0] * 100 + [1.0] * RECENT_STEPS:
        now[0] += took_s
        pace.step_done()
    assert pace.step_s == 1.0


def test_the_end_takes_the_slowest_evaluation_two_of_the_slowest_saves_and_a_step(monkeypatch):
    now = [0.0]
    monkeypatch.setattr("athanor.tasks.trainer.course.pace.time.monotonic", lambda: now[0])
    pace = Pace()
    for seconds in (3.0, 4.0, 2.0):
        pace.evaluation(seconds)
        pace.save(10 * seconds)
    assert (pace.closing_s, pace.slowest_save_s) == (84.0, 40.0)
    for _ in range(WARMING_STEPS + FEWEST_STEPS):
        now[0] += 7.0
        pace.step_done()
    assert pace.closing_s == 91.0

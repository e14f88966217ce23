import pytest

from tasks.trainer.config import TrainRecipe
from tasks.trainer.schedules import learning_rate


def recipe(**fields) -> TrainRecipe:
    return TrainRecipe.model_validate(
        {"steps": 100, "seq_len_tokens": 8, "batch_tokens": 8, "peak_lr": 0.01, "warmup_steps": 10} | fields
    )


@pytest.mark.parametrize("schedule", ["cosine", "wsd"])
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


def test_wsd_is_flat_then_falls_linearly_to_the_floor():
    wsd = recipe(schedule="wsd", decay_fraction=0.2, min_lr_fraction=0.5)
    assert {learning_rate(wsd, step) for step in range(9, 81)} == {0.01}
    assert learning_rate(wsd, 90) == pytest.approx(0.01 * 0.75)
    assert learning_rate(wsd, 100) == pytest.approx(0.01 * 0.5)


def test_wsd_decay_longer_than_the_run_begins_after_the_warm_up():
    wsd = recipe(schedule="wsd", decay_fraction=1.0)
    assert learning_rate(wsd, 10) == 0.01
    assert learning_rate(wsd, 55) == pytest.approx(0.005)

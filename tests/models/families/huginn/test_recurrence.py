"""How often a recurrent core runs: draws, their means, and the curriculum they grow in."""

import pytest
import torch

from athanor.models.families.huginn.recipe import HuginnRecipe
from athanor.models.families.huginn.recurrence import draw_recurrence, mean_recurrence


def test_the_published_sampler_has_its_mean_median_and_tail():
    recipe = HuginnRecipe()
    drawn = [draw_recurrence(recipe, key) for key in range(20_000)]
    steps = torch.tensor([one.steps for one in drawn], dtype=torch.float64)
    assert abs(steps.mean() - 32.9) < 0.3
    assert steps.median() == 29
    assert abs((steps > 64).double().mean() - 0.058) < 0.006
    assert steps.min() >= 1
    assert all(one.with_grad == min(8, one.steps) for one in drawn)
    assert mean_recurrence(recipe) == (33.0, 8.0)


SAMPLERS = {  # with a mean of 20 and a depth of 4: means declared, range of iterations without and with gradient
    "poisson-lognormal-fill": ((20.0, 4.0), None, 4),
    "poisson-lognormal": ((20.5, 4.5), None, 8),
    "poisson-fill": ((20.0, 4.0), None, 4),
    "poisson-unbounded": ((20.5, 4.5), None, 8),
    "poisson-bounded": ((20.5, 4.5), 31, 8),
    "simple": ((20.0, 4.5), 31, 8),
    "bptt": ((19.5625, 4.0625), 31, 8),
    "non-uniform": ((15.96875, 4.5), 30, 8),
}


@pytest.mark.parametrize("sampling", SAMPLERS)
def test_the_other_samplers_have_the_means_and_ranges_they_declare(sampling):
    recipe = HuginnRecipe(sampling=sampling, mean_recurrence=20, backprop_depth=4)
    declared, most_without_grad, most_with_grad = SAMPLERS[sampling]
    drawn = [draw_recurrence(recipe, key) for key in range(4000)]
    steps = torch.tensor([[one.steps, one.with_grad, one.without_grad] for one in drawn], dtype=torch.float64)
    assert mean_recurrence(recipe) == pytest.approx(declared, abs=1e-3)
    standard_errors = steps.std(0) / 4000**0.5
    assert ((steps.mean(0)[:2] - torch.tensor(declared)).abs() <= 4 * standard_errors[:2] + 1e-3).all()
    assert set(steps[:, 1].tolist()) == ({4} if sampling.endswith("-fill") else set(range(1, most_with_grad + 1)))
    assert steps[:, 2].min() >= 0 and (most_without_grad is None or steps[:, 2].max() == most_without_grad)


@pytest.mark.parametrize("sampling", ["poisson-lognormal-filling", *SAMPLERS])
def test_samplers_also_draw_when_every_iteration_carries_gradient(sampling):
    recipe = HuginnRecipe(sampling=sampling, mean_recurrence=1, backprop_depth=1)
    assert min(draw_recurrence(recipe, key).steps for key in range(50)) == 1
    assert mean_recurrence(recipe)[0] >= 1


@pytest.mark.parametrize("sampling", ["poisson-lognormal-filling", "poisson-fill", "simple"])
def test_a_curriculum_lets_recurrence_and_depth_grow_to_their_means(sampling):
    recipe = HuginnRecipe(sampling=sampling, mean_recurrence=20, backprop_depth=4, curriculum_steps=100)

    def means(step):
        drawn = [draw_recurrence(recipe, key, step) for key in range(2000)]
        return [sum(getattr(one, what) for one in drawn) / 2000 for what in ("steps", "with_grad")]

    first, half, last = means(0), means(50), means(100)
    halved = HuginnRecipe(sampling=sampling, mean_recurrence=10, backprop_depth=2)
    for found, wanted in ((half, mean_recurrence(halved)), (last, mean_recurrence(recipe))):
        assert found == pytest.approx(wanted, abs=0.5)
    assert first[0] <= 2.1
    assert draw_recurrence(recipe, 7, 100) == draw_recurrence(recipe, 7, 10**6) == draw_recurrence(recipe, 7)

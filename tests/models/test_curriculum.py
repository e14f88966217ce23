"""What a trainer tells a model: scheduled values are kept with the weights, draws follow from the key of the step."""

import pytest
import torch

from athanor.models.build import build_model


def test_scheduled_values_are_pure_and_lie_in_buffers_that_a_checkpoint_keeps(mode, tiny_recipe):
    model, resumed = build_model(tiny_recipe(mode)), build_model(tiny_recipe(mode))
    for progress in (0.0, 0.3, 1.0):
        values = model.schedule(progress)
        assert values == model.schedule(progress)
        model.apply_schedule(values)
        resumed.load_state_dict(model.state_dict())
        for name, value in values.items():
            assert float(resumed.get_buffer(name)) == pytest.approx(value)


def test_a_step_draws_from_its_key_alone(mode, tiny_recipe):
    ids = torch.arange(1, 33).view(2, 16)

    def loss(keys):
        model = build_model(tiny_recipe(mode))
        model.init_weights(0)
        model.train().begin_training(["a", "b"])
        for key in keys:
            model.begin_step(key)
        return model.loss(ids, ids.roll(-1, 1), row_key_B=torch.arange(2)).total.item()

    assert loss([5, 6, 7]) == loss([7])

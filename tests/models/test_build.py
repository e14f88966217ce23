"""Building: what a recipe must say, and models without memory."""

from __future__ import annotations

import pytest

from athanor.core.errors import UserError
from athanor.models.build import build_model, build_on_meta


def test_a_model_without_a_vocabulary_is_refused_in_one_line(tiny_recipe):
    with pytest.raises(UserError, match="vocab_size") as refused:
        build_model(tiny_recipe("vanilla", vocab_size=None))
    assert "\n" not in str(refused.value)


def test_a_model_on_meta_has_the_names_and_shapes_and_no_storage(mode, tiny_recipe):
    light, real = build_on_meta(tiny_recipe(mode)).state_dict(), build_model(tiny_recipe(mode)).state_dict()
    assert {name: t.shape for name, t in light.items()} == {name: t.shape for name, t in real.items()}
    assert all(t.is_meta for t in light.values())

"""What an optimizer makes of a recipe's fields."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from athanor.core.keys import canonical_json
from athanor.tasks.trainer.optimizers.defaults import FIELDS
from athanor.tasks.trainer.optimizers.kind import OPTIMIZERS
from athanor.tasks.trainer.train_recipe import TrainRecipe


def train_recipe(optimizer: str, **fields) -> TrainRecipe:
    shape = {"steps": 1, "seq_len_tokens": 2, "batch_tokens": 2, "peak_lr": 0.1}
    return TrainRecipe.model_validate({**shape, "optimizer": optimizer, **fields})


def test_a_recipe_that_names_no_optimizer_keeps_its_key():
    fields = {"steps": 1, "seq_len_tokens": 2, "batch_tokens": 2, "peak_lr": 0.1}
    silent, named = TrainRecipe.model_validate(fields), TrainRecipe.model_validate({**fields, "optimizer": "adamw"})
    assert canonical_json(silent) == canonical_json(named)
    assert '"beta1":0.9,"beta2":0.95' in canonical_json(silent)
    assert "optimizer" not in canonical_json(silent)
    assert '"optimizer":"lion"' in canonical_json(train_recipe("lion"))


@pytest.mark.parametrize("optimizer", list(OPTIMIZERS))
def test_an_optimizer_has_its_own_defaults_and_survives_the_run_description(optimizer):
    recipe = train_recipe(optimizer)
    read = {field: getattr(recipe, field) for field in OPTIMIZERS[optimizer].defaults}
    assert read == OPTIMIZERS[optimizer].defaults
    assert TrainRecipe.model_validate_json(recipe.model_dump_json()) == recipe
    assert train_recipe(optimizer, weight_decay=0.7).weight_decay == 0.7


@pytest.mark.parametrize(
    ("optimizer", "field", "message"),
    [
        ("lion", {"eps": 1e-6}, r"eps=1e-06 is not read by optimizer=lion: leave it out"),
        ("adafactor", {"beta1": 0.9}, r"beta1=0.9 is not read by optimizer=adafactor"),
        ("adamw", {"sophia_gamma": 0.1}, r"sophia_gamma=0.1 is not read by optimizer=adamw"),
        ("adamw-bf16-moments", {"beta2": 0.995}, r"beta2=0.995 is too slow for optimizer=adamw-bf16-moments"),
    ],
)
def test_a_field_the_optimizer_cannot_use_is_refused_naming_both(optimizer, field, message):
    with pytest.raises(ValidationError, match=message):
        train_recipe(optimizer, **field)


def test_every_field_of_the_recipe_that_is_an_optimizers_is_read_by_one():
    read = {field for kind in OPTIMIZERS.records() for field in kind.defaults}
    assert read == set(FIELDS) <= TrainRecipe.model_fields.keys()

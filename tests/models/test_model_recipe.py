"""A recipe holds its own family's section, and impossible ones are refused in one line."""

from __future__ import annotations

import pickle

import pytest

from athanor.models.families.huginn.recipe import HuginnRecipe
from athanor.models.families.vanilla.recipe import VanillaRecipe
from athanor.models.family import FAMILIES
from athanor.models.model_recipe import ModelRecipe


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"n_kv_heads": 3}, "n_kv_heads=3 must divide n_heads=4"),
        ({"head_dim": 7}, "head_dim=7 must be even"),
        ({"polychromatic": {}}, "section polychromatic belongs to family=polychromatic"),
    ],
)
def test_an_impossible_recipe_is_refused_in_one_line(tiny_recipe, changes, message):
    with pytest.raises(ValueError, match=message) as refused:
        tiny_recipe("vanilla", **changes)
    assert "\n" not in refused.value.errors()[0]["msg"]


def test_a_section_left_out_is_that_of_its_defaults(tiny_recipe):
    assert tiny_recipe("vanilla").vanilla is None
    assert tiny_recipe("vanilla").section(VanillaRecipe) == VanillaRecipe()
    assert tiny_recipe("vanilla gpt2").section(VanillaRecipe).positions == "learned"
    with pytest.raises(TypeError, match="a recipe of the family vanilla has no HuginnRecipe"):
        tiny_recipe("vanilla").section(HuginnRecipe)


def test_the_form_is_flat_with_one_optional_section_for_each_family():
    fields = ModelRecipe.model_json_schema()["properties"]
    assert fields["family"]["enum"] == list(FAMILIES)
    assert list(fields)[-len(list(FAMILIES)) :] == list(FAMILIES)
    for family in FAMILIES:
        section, absent = fields[family]["anyOf"]
        assert section["$ref"].startswith("#/$defs/") and absent == {"type": "null"}


def test_a_recipe_travels_between_processes(mode, tiny_recipe):
    assert pickle.loads(pickle.dumps(tiny_recipe(mode))) == tiny_recipe(mode)

"""Shapes of a family to choose from, from small to large: its quickstart's, in other widths and depths.

Heads, feed-forward width and ranks grow with the width, depth more slowly, and what the family's section counts in
steps keeps its share of the run.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from athanor.flows.presets.names import preset_names
from athanor.flows.presets.preset import load_preset
from athanor.models.family import FAMILIES
from athanor.models.model_recipe import ModelRecipe
from athanor.tasks.checkpoint import PresetModel
from athanor.tasks.preset_recipe import Preset

# Width in those of the quickstart, and depth in its depths.
LADDER = ((0.5, 1.0), (1.0, 1.0), (1.5, 1.0), (2.0, 1.5), (3.0, 2.0), (4.0, 2.0), (6.0, 3.0), (8.0, 4.0), (12.0, 6.0))
WIDTHS = ("d_model", "n_heads", "n_kv_heads", "d_ff")


def quickstart_of(family: str) -> Preset:
    """The family's small preset; where none comes with it, the quickstart's shape with the family's small section."""
    FAMILIES[family]
    presets = map(load_preset, (name for name in preset_names() if name.startswith("quickstart")))
    if (found := next((preset for preset in presets if preset.model.family == family), None)) is not None:
        return found
    base = load_preset("quickstart")
    shape = base.model.model_dump(exclude={*FAMILIES}, exclude_none=True)
    model = PresetModel.model_validate({**shape, "family": family, family: dict(FAMILIES[family].laptop)})
    return base.model_copy(update={"model": model})


def shapes(family: str) -> Iterator[ModelRecipe]:
    """Recipes without vocabulary, the smallest first."""
    base = quickstart_of(family).model.recipe
    for width, depth in LADDER:
        fields = {name: round(getattr(base, name) * width) for name in WIDTHS}
        yield _with(base, {**fields, "n_layers": round(base.n_layers * depth)}, _ranks(base, width))


def with_steps(recipe: ModelRecipe, steps: int) -> ModelRecipe:
    """The recipe with what its section counts in steps for a run of so many."""
    share = steps / quickstart_of(recipe.family).trainings["pretrain"].steps
    section = _section(recipe)
    counted = {name: max(1, round(value * share)) for name, value in section.items() if name.endswith("_steps")}
    return _with(recipe, {}, counted)


def _ranks(recipe: ModelRecipe, width: float) -> dict[str, int]:
    return {name: round(value * width) for name, value in _section(recipe).items() if name.endswith("_rank")}


def _section(recipe: ModelRecipe) -> dict[str, Any]:
    """The fields of the family's section that are not its defaults."""
    given = getattr(recipe, recipe.family)
    return {} if given is None else given.model_dump(mode="json", exclude_defaults=True)


def _with(recipe: ModelRecipe, shape: dict[str, Any], section: dict[str, Any]) -> ModelRecipe:
    fields = recipe.model_dump(mode="json", exclude_none=True, exclude={*FAMILIES})
    section = {**_section(recipe), **section}
    return ModelRecipe.model_validate({**fields, **shape, **({recipe.family: section} if section else {})})

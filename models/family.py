"""Families: each is a folder in `families/` that holds all that is its own, and declares itself in its `family.py`.

Nothing else lists families: recipes, sizes, layouts and commands are made from these records. A record is light, its
module imports no torch; what is heavy is imported when it is asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Set
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from athanor.core.kinds import Kinds
from athanor.core.recipe import Recipe

if TYPE_CHECKING:
    from athanor.models.checkpoints.layout import Layout
    from athanor.models.model_recipe import ModelRecipe
    from athanor.models.shape import Shape
    from athanor.models.skeleton import LanguageModel


class Section(Recipe):
    """Base of what a family's recipes have beyond the fields that all families share."""

    def check(self, shape: Shape) -> None:
        """Raises ValueError, in one line that names the fields, where the shape leaves no such model."""

    def sources(self) -> Mapping[str, Set[str]]:
        """Fields of the section that name sources of the data's mixture, and the names."""
        return {}


@dataclass(frozen=True)
class Family:
    """What a family gives to the rest. Its name is that of its folder, and of its section in a ModelRecipe."""

    name: str
    section: type[Section]
    model: Callable[[], type[LanguageModel]]
    sizes: Callable[[], Mapping[str, ModelRecipe]] = dict  # published shapes by name
    layouts: Callable[[], Mapping[str, Layout]] = dict  # of published checkpoints that are read, by name
    laptop: Mapping[str, Any] = field(default_factory=dict)  # the section of a small model, if its defaults are large
    meanings: Mapping[str, str] = field(default_factory=dict)  # of each value that its models log, one sentence


FAMILIES: Kinds[Family] = Kinds("family", "athanor.models.families", "FAMILY", module="family")

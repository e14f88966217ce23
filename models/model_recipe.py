"""Model recipes: one flat model for what all families share, and a section of each family's for what is its own.

`family` chooses; the section of that name may be given, every other must be absent. The sections are those of the
families' records. An impossible combination is refused in one line that names the fields.
"""

from __future__ import annotations

from typing import Any, TypeVar

from pydantic import Field, create_model, model_validator

from athanor.models.family import FAMILIES, Section
from athanor.models.shape import Shape

AnyShape = TypeVar("AnyShape", bound=Shape)
OneSection = TypeVar("OneSection", bound=Section)


def _with_sections(recipe: type[AnyShape]) -> type[AnyShape]:
    """The recipe with an optional field for the section of every family there is."""
    sections: dict[str, Any] = {
        family.name: (family.section | None, Field(default=None, description=f"Only for family={family.name}"))
        for family in FAMILIES.records()
    }
    return create_model(
        recipe.__name__, __base__=recipe, __module__=recipe.__module__, __doc__=recipe.__doc__, **sections
    )


@_with_sections
class ModelRecipe(Shape):
    """Shape of a decoder. Widths are in channels, lengths in tokens."""

    def section(self, kind: type[OneSection]) -> OneSection:
        """The family's section, all defaults where none is given. Raises TypeError if it is not of that class."""
        given = getattr(self, self.family)
        section = FAMILIES[self.family].section.model_validate({}) if given is None else given
        if not isinstance(section, kind):
            raise TypeError(f"a recipe of the family {self.family} has no {kind.__name__}")
        return section

    @model_validator(mode="after")
    def _possible(self) -> ModelRecipe:
        for family in FAMILIES:
            if getattr(self, family) is not None and self.family != family:
                raise ValueError(f"section {family} belongs to family={family}, not family={self.family}")
        self.section(Section).check(self)
        return self

"""What the shell completes: names of presets, of what the store holds, and of the fields of a preset.

Asked at every press of a key: each function imports what it needs, nothing heavy, and reads the names of folders, not
what is in them. Where none fits, the shell completes files of its own accord.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from types import UnionType
from typing import TYPE_CHECKING, Any, Union, get_args, get_origin

import typer

if TYPE_CHECKING:
    from pydantic import BaseModel

WEIGHTS = "model.safetensors"  # in an artifact that is a model


def presets_beginning(incomplete: str) -> list[str]:
    """Presets that come with Athanor."""
    from athanor.flows.presets.names import preset_names

    return _beginning(incomplete, preset_names())


def artifacts_beginning(incomplete: str) -> list[str]:
    """Artifacts of the store."""
    from athanor.core.store import Store

    return _beginning(incomplete, (artifact.name for artifact in Store().artifacts()))


def removable_beginning(incomplete: str) -> list[str]:
    """Artifacts, and what was begun and is not finished."""
    from athanor.core.store import Store

    store = Store()
    return _beginning(incomplete, dict.fromkeys(a.name for a in (*store.artifacts(), *store.begun())))


def runs_beginning(incomplete: str) -> list[str]:
    """What was trained, or is being trained."""
    from athanor.core.run_files import SPEC
    from athanor.core.store import Store

    store = Store()
    trained = [a.name for a in store.artifacts() if (a.path / SPEC).exists()]
    return _beginning(
        incomplete, [*trained, *(a.name for a in store.begun() if (store.partial_path(a) / SPEC).exists())]
    )


def models_beginning(incomplete: str) -> list[str]:
    """Presets, which stand for their last model, and the models of the store."""
    from athanor.core.store import Store

    models = [artifact.name for artifact in Store().artifacts() if (artifact.path / WEIGHTS).exists()]
    return [*presets_beginning(incomplete), *_beginning(incomplete, models)]


def fields_beginning(ctx: typer.Context, incomplete: str) -> list[str]:
    """Fields of a preset, for `--set`; those of a source, a share or a task have the names that the preset on the
    command line gives them."""
    from athanor.tasks.preset_recipe import Preset

    preset = ctx.params.get("preset") or next(iter(ctx.args), None)  # not yet a parameter while `--set` has no value
    return _beginning(incomplete, _fields(Preset, _values(preset)))


def _beginning(incomplete: str, names: Iterable[str]) -> list[str]:
    return [name for name in names if name.startswith(incomplete)]


def _values(preset: str | None) -> Mapping[str, Any]:
    """What a preset says; nothing where it cannot be read."""
    from athanor.core.errors import UserError
    from athanor.flows.presets.preset import load_preset

    try:
        return load_preset(preset).model_dump() if preset else {}
    except UserError:
        return {}


def _fields(recipe: type[BaseModel], values: Mapping[str, Any], path: str = "") -> Iterator[str]:
    """The dotted names of a recipe's fields, its sections' instead of them."""
    for name, field in recipe.model_fields.items():
        section, by_name = _section(field.annotation)
        below = values.get(name) or {}
        for place, inner in (
            ((f"{path}{name}.{key}", below[key]) for key in below) if by_name else ((path + name, below),)
        ):
            if section is None:
                yield place
            else:
                yield from _fields(section, inner, f"{place}.")


def _section(annotation: Any) -> tuple[type[BaseModel] | None, bool]:
    """The recipe that a field holds, if any, and whether it holds them by name."""
    from pydantic import BaseModel

    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation, False
    if get_origin(annotation) is dict:
        return _section(get_args(annotation)[1])[0], True
    if get_origin(annotation) in (Union, UnionType):
        found = [_section(one) for one in get_args(annotation)]
        return next((one for one in found if one != (None, False)), (None, False))
    return None, False

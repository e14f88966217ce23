"""Presets: one YAML file describes a whole lifecycle; `--set key=value` changes it; mistakes are one line.

A preset may say `extends: OTHER` (a name, or a file beside it) and then only what differs. Null removes what the base
says, or a section that may be missing (`interpret: null`), and naming an origin of a source or tokenizer (`builtin`,
`path`, `hub`) replaces the base's origin. Where all the `data.sources` of its file are new ones, they take the place of
the base's and its mixture. Naming a checkpoint replaces the base's model, and its tokenizer by the checkpoint's own.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import ValidationError

from athanor.core.errors import UserError
from athanor.core.near import did_you_mean
from athanor.data.data_recipe import ORIGINS
from athanor.flows.presets.names import FOLDER, preset_names
from athanor.flows.presets.wording import problems, yaml_problem
from athanor.tasks.checkpoint import checkpoint_named
from athanor.tasks.preset_recipe import Preset

SECTIONS = tuple(name for name, field in Preset.model_fields.items() if type(None) in get_args(field.annotation))


SUFFIXES = (".yaml", ".yml")
# What the YAML loader raises: its own errors, and Python's for a date such as 2001-99-99, the number 0x_, [[[[...
NOT_YAML = (yaml.YAMLError, ValueError, RecursionError)


class _Yaml(yaml.SafeLoader):
    """YAML in which only `true` and `false` are truth values: `wandb: off` is the word off. A key stands there once."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node: yaml.MappingNode = super().compose_mapping_node(anchor)  # type: ignore[misc]
        keys = [key for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        for i, key in enumerate(keys):
            if key.value in (before.value for before in keys[:i]):
                problem = f"{key.value} is there for the second time; make one of the two"
                raise yaml.MarkedYAMLError(problem=problem, problem_mark=key.start_mark)
        return node


_Yaml.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:bool" or first in "tTfF"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def load_preset(name_or_path: str, overrides: list[str] | tuple[str, ...] = ()) -> Preset:
    """A preset by name or YAML file, with `key.sub=value` overrides applied.

    Raises UserError: a line for each mistake with the key, the value and what is allowed.
    """
    fields = _read(name_or_path, ())
    for override in overrides:
        fields = _extended(fields, _parse_override(override))
    try:
        return Preset.model_validate(fields)
    except ValidationError as error:
        raise UserError("\n".join(f"preset {name_or_path}: {each}" for each in problems(error, Preset))) from None


def reproducing_command(preset: Preset) -> str:
    """The command that runs this preset again: by name if it is one of ours unchanged, else from its file."""
    if preset.name in preset_names():
        ours = load_preset(preset.name).model_copy(update={"runtime": preset.runtime})
        if ours == preset:
            return f"athanor run {preset.name}"
    return "athanor run preset.yaml"


def _read(name_or_path: str, above: tuple[str, ...]) -> dict[str, Any]:
    path = Path(name_or_path)
    if path.suffix not in SUFFIXES:
        path = FOLDER / f"{name_or_path}.yaml"
        if not path.is_file() or "/" in name_or_path:
            raise UserError(
                f"no preset {name_or_path!r}: {did_you_mean(name_or_path, preset_names())}there are "
                f"{', '.join(preset_names())}, or give a .yaml file"
            )
    if name_or_path in above:
        raise UserError(f"preset {name_or_path} extends itself: {' -> '.join((*above, name_or_path))}")
    try:
        fields = yaml.load(path.read_text(encoding="utf-8"), _Yaml)
    except OSError as error:
        raise UserError(
            f"preset file {path}: {error.strerror}; {did_you_mean(path.stem, preset_names())}give a YAML file, or one "
            f"of {', '.join(preset_names())}"
        ) from None
    except NOT_YAML as error:
        raise UserError(f"preset file {path} is no YAML: {yaml_problem(error)}") from None
    if not isinstance(fields, dict):
        raise UserError(f"preset file {path} must hold keys such as 'extends: quickstart'; it holds {fields!r:.40}")
    base = fields.pop("extends", None)
    fields.setdefault("name", path.stem)
    if base is not None and Path(str(base)).suffix in SUFFIXES:
        base = path.parent / Path(str(base)).expanduser()
    return (
        fields
        if base is None
        else _extended(_without_sources(_read(str(base), (*above, name_or_path)), fields), fields)
    )


def _extended(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """A whole preset's fields with those that differ; a section that is null stays so, whatever its default."""
    base = _without_model(base, over)
    return _merge(base, over) | {name: None for name in SECTIONS if name in over and over[name] is None}


def _without_sources(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """The base without sources and mixture, if `over` has sources and none of the base's is among them."""
    ours, theirs = _sources(over), _sources(base)
    if not any(ours.values()) or ours.keys() & theirs.keys():
        return base
    return {**base, "data": {name: v for name, v in base["data"].items() if name not in ("sources", "mixture")}}


def _without_model(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """The base without what a checkpoint that `over` names brings."""
    model = over.get("model")
    if not isinstance(model, dict) or model.get("checkpoint") is None:
        return base
    replaced = ["model"] if checkpoint_named(str(model["checkpoint"])).tokenizer is None else ["model", "tokenizer"]
    return {name: value for name, value in base.items() if name not in replaced}


def _sources(fields: dict[str, Any]) -> dict[str, Any]:
    data = fields.get("data")
    sources = data.get("sources") if isinstance(data, dict) else None
    return sources if isinstance(sources, dict) else {}


def _merge(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    if any(over.get(origin) is not None for origin in ORIGINS):
        for name in (*ORIGINS, "hub_config", "hub_revision"):
            merged.pop(name, None)
    for name, value in over.items():
        if value is None:
            merged.pop(name, None)
        elif isinstance(value, dict) and isinstance(merged.get(name), dict):
            merged[name] = _merge(merged[name], value)
        else:
            merged[name] = value
    return merged


def _parse_override(override: str) -> dict[str, Any]:
    key, equals, text = override.partition("=")
    if not equals or not key.strip("."):
        raise UserError(f"--set {override}: write it as key=value, e.g. --set pretrain.steps=900")
    try:
        value = yaml.load(text, _Yaml)
    except NOT_YAML:
        value = text
    if isinstance(value, dict) and not any(value.values()):
        value = text  # {question} is a template, not a mapping to nothing
    fields: Any = value
    for part in reversed(key.split(".")):
        fields = {part: fields}
    return fields

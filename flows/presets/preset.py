"""Presets: one YAML file describes a whole lifecycle; `--set key=value` changes it; mistakes are one line.

A preset may say `extends: OTHER` and then only what differs. Null removes what the base says, and naming an
origin of a source or tokenizer (`builtin`, `path`, `hub`) replaces the base's origin.
"""

from __future__ import annotations

import difflib
from functools import cache
from pathlib import Path
from types import UnionType
from typing import Any, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, Field, ValidationError, model_validator

from athanor.core.errors import UserError
from athanor.core.recipe import Recipe
from athanor.core.runtime import Runtime
from athanor.data.data_recipe import ORIGINS, DataRecipe, TokenizerRecipe
from athanor.models.family import Section
from athanor.models.model_recipe import ModelRecipe
from athanor.tasks.stage_recipes import EvalRecipe, InterpretRecipe, ReportRecipe, SftRecipe
from athanor.tasks.trainer.train_recipe import TrainRecipe

FOLDER = Path(__file__).parent


class Preset(Recipe):
    """Everything one lifecycle needs: recipes of the stages, and the runtime, which no key depends on."""

    name: str = Field(min_length=1, pattern=r"^[a-z0-9][a-z0-9._-]*$", description="Also the deployments' name")
    description: str = Field(default="", description="One line for `athanor presets`")
    data: DataRecipe
    tokenizer: TokenizerRecipe = TokenizerRecipe()
    model: ModelRecipe
    pretrain: TrainRecipe
    sft: SftRecipe | None = Field(default=None, description="None: the base model is evaluated alone")
    evaluate: EvalRecipe | None = Field(default=None, description="None: no benchmarks")
    interpret: InterpretRecipe | None = Field(default=InterpretRecipe(), description="None: no maps")
    report: ReportRecipe = ReportRecipe()
    runtime: Runtime = Runtime()

    @model_validator(mode="after")
    def _rows_fit(self) -> Preset:
        for name, train in (("pretrain", self.pretrain), ("sft.train", self.sft.train if self.sft else None)):
            if train is not None and train.seq_len_tokens > self.model.max_seq_len:
                raise ValueError(
                    f"{name}.seq_len_tokens={train.seq_len_tokens} is longer than "
                    f"model.max_seq_len={self.model.max_seq_len}"
                )
        return self

    @model_validator(mode="after")
    def _sources_exist(self) -> Preset:
        for field, named in self.model.section(Section).sources().items():
            if unknown := sorted(named - self.data.sources.keys()):
                raise ValueError(
                    f"model.{self.model.family}.{field} names {', '.join(unknown)}, but data.mixture has "
                    f"{', '.join(sorted(self.data.sources))}"
                )
        return self

    def to_yaml(self) -> str:
        """The preset as a file that loads to the same preset; the runtime only where it is not the default."""
        fields = self.model_dump(mode="json", exclude_none=True)
        if not (runtime := self.runtime.model_dump(mode="json", exclude_defaults=True)):
            del fields["runtime"]
        else:
            fields["runtime"] = runtime
        return yaml.safe_dump(fields, sort_keys=False, allow_unicode=True)


class _Yaml(yaml.SafeLoader):
    """YAML in which only `true` and `false` are truth values: `wandb: off` is the word off."""


_Yaml.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:bool" or first in "tTfF"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def preset_names() -> list[str]:
    """Names of the presets that come with Athanor."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def load_preset(name_or_path: str, overrides: list[str] | tuple[str, ...] = ()) -> Preset:
    """A preset by name or YAML file, with `key.sub=value` overrides applied.

    Raises UserError: one line with the key, the value and what is allowed.
    """
    fields = _read(name_or_path, ())
    for override in overrides:
        fields = _merge(fields, _parse_override(override))
    try:
        return Preset.model_validate(fields)
    except ValidationError as error:
        raise UserError(f"preset {name_or_path}: {_one_line(error)}") from None


def reproducing_command(preset: Preset) -> str:
    """The command that runs this preset again: by name if it is one of ours unchanged, else from its file."""
    if preset.name in preset_names():
        ours = load_preset(preset.name).model_copy(update={"runtime": preset.runtime})
        if ours == preset:
            return f"athanor run {preset.name}"
    return "athanor run preset.yaml"


def _read(name_or_path: str, above: tuple[str, ...]) -> dict[str, Any]:
    path = Path(name_or_path)
    if path.suffix not in (".yaml", ".yml"):
        path = FOLDER / f"{name_or_path}.yaml"
        if not path.is_file() or "/" in name_or_path:
            near = difflib.get_close_matches(name_or_path, preset_names(), 1)
            hint = f"did you mean {near[0]}? " if near else ""
            raise UserError(
                f"no preset {name_or_path!r}: {hint}there are {', '.join(preset_names())}, or give a .yaml file"
            )
    if name_or_path in above:
        raise UserError(f"preset {name_or_path} extends itself: {' -> '.join((*above, name_or_path))}")
    try:
        fields = yaml.load(path.read_text(), _Yaml)
    except OSError as error:
        raise UserError(f"preset file {path}: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"preset file {path} is no YAML: {' '.join(str(error).split())}") from None
    if not isinstance(fields, dict):
        raise UserError(f"preset file {path} must hold keys such as 'extends: quickstart'; it holds {fields!r:.40}")
    base = fields.pop("extends", None)
    fields.setdefault("name", path.stem)
    return fields if base is None else _merge(_read(str(base), (*above, name_or_path)), fields)


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
    except yaml.YAMLError:
        value = text
    fields: Any = value
    for part in reversed(key.split(".")):
        fields = {part: fields}
    return fields


def _one_line(error: ValidationError) -> str:
    """The first problem of a validation: key, value, and what is allowed."""
    problem = error.errors(include_url=False)[0]
    location = [str(part) for part in problem["loc"]]
    key = ".".join(location)
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    if problem["type"] == "extra_forbidden":
        allowed = _fields_at(Preset, location[:-1])
        near = difflib.get_close_matches(location[-1], allowed, 1)
        hint = f"did you mean {near[0]}? " if near else ""
        return f"unknown key {key}={problem['input']!r}; {hint}allowed here: {', '.join(allowed)}{more}"
    message = problem["msg"].removeprefix("Value error, ")
    if problem["type"] == "missing":
        return f"{key} is missing; give it a value{more}"
    if problem["type"] == "value_error":
        return f"{key + ': ' if key else ''}{message}{more}"
    return f"{key}={problem['input']!r}: {message[0].lower()}{message[1:]}{more}"


def _fields_at(model: type[BaseModel], location: list[str]) -> list[str]:
    """Field names of the sub-model a validation location points into."""
    current: type[BaseModel] | None = model
    for part in location:
        if current is None:
            return []
        if part in current.model_fields:  # anything else is a mapping's own key, such as a source's name
            current = _model_in(current.model_fields[part].annotation)
    return sorted(current.model_fields) if current is not None else []


@cache
def _model_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    if get_origin(annotation) in (Union, UnionType, dict, tuple):
        return next((model for part in get_args(annotation) if (model := _model_in(part))), None)
    return None

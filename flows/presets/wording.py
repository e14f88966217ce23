"""What is wrong with a preset, a line each: the key, the value, and what is allowed there."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from types import UnionType
from typing import Any, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from athanor.core.near import did_you_mean
from athanor.core.text import one_line

_VALUE_CHARACTERS = 80


def problems(error: ValidationError, model: type[BaseModel]) -> list[str]:
    """All that validating `model` found: unknown keys first, the likeliest cause of others, then all that is missing,
    then values that are none; without what is wrong with a key only because of one further in."""
    every = error.errors(include_url=False)
    deeper = {problem["loc"][:depth] for problem in every for depth in range(len(problem["loc"]))}
    found = [problem for problem in every if problem["loc"] not in deeper]
    unknown = [problem for problem in found if problem["type"] == "extra_forbidden"]
    missing = [problem for problem in found if problem["type"] == "missing"]
    wrong = [problem for problem in found if problem["type"] not in ("extra_forbidden", "missing")]
    said = [_unknown(problem, model) for problem in unknown]
    said += [_missing(missing)] if missing else []
    return said + [_wrong(problem, model) for problem in wrong]


def yaml_problem(error: Exception) -> str:
    """Why a text is no YAML, with the line and the column of it."""
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        mark = error.problem_mark
        hint = "; indent with spaces" if "'\\t'" in str(error.problem) else ""
        return f"line {mark.line + 1}, column {mark.column + 1}: {one_line(str(error.problem), 200)}{hint}"
    return one_line(re.sub(r'in "<.*?>", ', "", str(error)), 200)


def _unknown(problem: ErrorDetails, model: type[BaseModel]) -> str:
    location = [str(part) for part in problem["loc"]]
    allowed = sorted(_model_at(model, location[:-1]).model_fields)
    hint = did_you_mean(location[-1], allowed)
    if not hint and (elsewhere := [path for path in _paths(model) if path.split(".")[-1] == location[-1]]):
        hint = f"did you mean {' or '.join(elsewhere)}? "
    return f"unknown key {_key(problem)}={_value(problem)}; {hint}allowed here: {', '.join(allowed)}"


def _missing(missing: list[ErrorDetails]) -> str:
    keys = ", ".join(map(_key, missing))
    said = f"{keys} is missing; give it a value" if len(missing) == 1 else f"{keys} are missing; give them values"
    sections = any(len(problem["loc"]) == 1 for problem in missing)
    return said + (", or say `extends: quickstart` and then only what differs" if sections else "")


def _wrong(problem: ErrorDetails, model: type[BaseModel]) -> str:
    key, value = _key(problem), _value(problem)
    message = problem["msg"].removeprefix("Value error, ")
    field = _field_at(model, [str(part) for part in problem["loc"]])
    described = field.description if field is not None else None
    match problem["type"]:
        case "value_error":
            return f"{key + ': ' if key else ''}{message}"
        case "literal_error":
            hint = did_you_mean(str(problem["input"]), re.findall(r"'([^']*)'", message))
            return f"{key}={value}: {hint}{message[0].lower()}{message[1:]}"
        case "string_pattern_mismatch" if described:
            return f"{key}={value} is not of this form: {described}"
        case "string_type" if isinstance(problem["input"], list) and described:
            return f"{key}={value} is a list; give one. {described}"
        case "dict_type" if isinstance(problem["input"], list):
            last = key.split(".")[-1]
            return f"{key}={value} is a list; name each entry, as in {last}: {{a-name: {{...}}}}. {described or ''}"
    return f"{key}={value}: {message[0].lower()}{message[1:]}"


def _key(problem: ErrorDetails) -> str:
    return ".".join(str(part) for part in problem["loc"])


def _value(problem: ErrorDetails) -> str:
    return one_line(repr(problem["input"]), _VALUE_CHARACTERS)


def _paths(model: type[BaseModel], above: str = "") -> Iterator[str]:
    """The dotted path of every field below a model, a mapping's own keys as NAME."""
    for name, field in model.model_fields.items():
        yield f"{above}{name}"
        if (inner := _model_in(field.annotation)) is not None:
            own = "NAME." if get_origin(field.annotation) is dict else ""
            yield from _paths(inner, f"{above}{name}.{own}")


def _model_at(model: type[BaseModel], location: list[str]) -> type[BaseModel]:
    """The sub-model a validation location points into."""
    current = model
    for part in location:
        if part in current.model_fields:  # anything else is a mapping's own key, such as a source's name
            current = _model_in(current.model_fields[part].annotation) or current
    return current


def _field_at(model: type[BaseModel], location: list[str]) -> FieldInfo | None:
    return _model_at(model, location[:-1]).model_fields.get(location[-1]) if location else None


@cache
def _model_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    if get_origin(annotation) in (Union, UnionType, dict, tuple):
        return next((model for part in get_args(annotation) if (model := _model_in(part))), None)
    return None

"""What is wrong with a preset, in one line: the key, the value, and what is allowed there."""

from __future__ import annotations

import difflib
from functools import cache
from types import UnionType
from typing import Any, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError


def first_problem(error: ValidationError, model: type[BaseModel]) -> str:
    """The first problem that validating `model` found."""
    problem = error.errors(include_url=False)[0]
    location = [str(part) for part in problem["loc"]]
    key = ".".join(location)
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    if problem["type"] == "extra_forbidden":
        allowed = _fields_at(model, location[:-1])
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

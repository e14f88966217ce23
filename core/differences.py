"""Where recipes differ, field by field: plans give the reason of a run so, and comparisons what sets runs apart."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any


def differing(*every: Mapping[str, Any]) -> dict[str, tuple[Any, ...]]:
    """Dotted path of every leaf in which they are not all equal -> the value in each, None where it is not there.

    In the order in which the leaves first appear.
    """
    flat = [dict(_leaves(one, "")) for one in every]
    rows = {name: tuple(fields.get(name) for fields in flat) for fields in flat for name in fields}
    return {name: values for name, values in rows.items() if any(value != values[0] for value in values)}


def _leaves(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping) and value:
        for name, inner in value.items():
            yield from _leaves(inner, f"{path}.{name}" if path else name)
    elif path:
        yield path, value

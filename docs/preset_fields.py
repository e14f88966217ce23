"""The tables of a preset's fields, written from the recipes themselves when the site is built: a hook of mkdocs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from athanor.flows.presets.preset import Preset

PLACE = "<!-- the fields -->"
BOUNDS = {"minimum": "≥ {:g}", "exclusiveMinimum": "> {:g}", "maximum": "≤ {:g}", "exclusiveMaximum": "< {:g}"}


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Called by mkdocs with every page's text; the page with PLACE in it gets the tables there."""
    return markdown.replace(PLACE, fields_markdown()) if PLACE in markdown else markdown


def fields_markdown() -> str:
    """A heading and a table for every part of a preset, in the order in which a preset names them.

    Parts of one form, such as `pretrain` and `sft.train`, share a table.
    """
    schema = Preset.model_json_schema()
    parts: dict[str, list[str]] = {}
    for path, name in _parts(schema, schema, ""):
        parts.setdefault(name, []).append(path)
    written = []
    for name, paths in {"": ["the preset"], **parts}.items():
        form = schema["$defs"][name] if name else schema
        heading = ", ".join(f"`{path}`" if name else path for path in paths)
        rows = [_row(field, spec, field in form.get("required", ())) for field, spec in form["properties"].items()]
        written.append("\n".join([f"## {heading}\n", "| field | default | what it is |", "|---|---|---|", *rows]))
    return "\n\n".join(written)


def _parts(schema: dict[str, Any], node: dict[str, Any], path: str) -> Iterator[tuple[str, str]]:
    """(dotted path, name of its form) of every part below a node, a mapping's own keys as NAME."""
    if "$ref" in node:
        name = node["$ref"].rpartition("/")[2]
        yield path, name
        node = schema["$defs"][name]
    for branch in node.get("anyOf", ()):
        yield from _parts(schema, branch, path)
    for kind, step in (("items", "[]"), ("additionalProperties", ".NAME")):
        if isinstance(node.get(kind), dict):
            yield from _parts(schema, node[kind], path + step)
    for field, inner in node.get("properties", {}).items():
        yield from _parts(schema, inner, f"{path}.{field}".removeprefix("."))


def _row(field: str, spec: dict[str, Any], required: bool) -> str:
    branches = [branch for branch in spec.get("anyOf", [spec]) if branch.get("type") != "null"]
    default = "needed" if required else _default(spec.get("default"))
    allowed = [f"`{value}`" for branch in branches for value in branch.get("enum", ())]
    bounds = [text.format(branch[name]) for branch in branches for name, text in BOUNDS.items() if name in branch]
    said = [spec.get("description", ""), ", ".join(allowed), ", ".join(bounds)]
    return f"| `{field}` | {default} | {'. '.join(filter(None, said))} |"


def _default(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, dict) and value:
        return "see below"  # a part with a table of its own
    return f"`{json.dumps(value)}`"

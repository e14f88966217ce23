"""lm-eval's task files as plain values: nothing that they name is imported."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any


def task_fields(path: Path) -> dict[str, Any]:
    """The fields of a YAML file, its `!function` tags as text. Raises OSError, and what the YAML loader raises."""
    import yaml

    return yaml.load(path.read_text(encoding="utf-8"), Loader=_plain_loader())


@cache
def _plain_loader() -> type:
    import yaml

    class Plain(yaml.SafeLoader):
        pass

    Plain.add_constructor("!function", lambda loader, node: str(node.value))
    return Plain

"""What lm-eval can evaluate: the names of its tasks, groups and tags, and the files that define them.

Its 14,000 YAML files are searched as text once for each version of lm-eval, in seconds; what was found lies in
ATHANOR_HOME and may be deleted.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

from athanor.core.disk import home, write_json
from athanor.core.errors import UserError

# Keys at the beginning of a line; only a tag may be a list (`task:` with a list belongs to a group).
_NAME = re.compile(r"""^["']?(task|group)["']?:[ \t]*["']?([^\s"'#]+)""", re.MULTILINE)
_TAGS = re.compile(r"""^["']?tag["']?:([^\n]*(?:\n[ \t]*-[^\n]*)*)""", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Definition:
    """A file that defines a name, and what the name is there: task, group or tag."""

    file: Path
    kind: str


@cache
def definitions() -> dict[str, list[Definition]]:
    """Name -> the files of lm-eval that define it. UserError without lm-eval."""
    root = lm_eval_tasks()
    remembered = home() / f"lm-eval-{version('lm-eval')}.json"
    with suppress(OSError, ValueError, KeyError, TypeError):
        content = json.loads(remembered.read_text(encoding="utf-8"))
        if content["folder"] == str(root):
            return _table(root, content["definitions"])
    found = [[name, kind, file.relative_to(root).as_posix()] for name, kind, file in _search(root)]
    with suppress(OSError):  # it is found again the next time
        remembered.parent.mkdir(parents=True, exist_ok=True)
        write_json(remembered, {"folder": str(root), "definitions": found})
    return _table(root, found)


def lm_eval_tasks() -> Path:
    """The folder of lm-eval's tasks. UserError without lm-eval."""
    spec = find_spec("lm_eval")
    if spec is None or not spec.submodule_search_locations:
        raise UserError("lm-eval is not installed; pip install lm-eval")
    return Path(spec.submodule_search_locations[0]) / "tasks"


def _table(root: Path, found: list[list[str]]) -> dict[str, list[Definition]]:
    table: dict[str, list[Definition]] = {}
    for name, kind, file in found:
        table.setdefault(name, []).append(Definition(root / file, kind))
    return table


def _search(root: Path) -> Iterator[tuple[str, str, Path]]:
    """Name, kind and file of every definition, by file."""
    for path in sorted(root.rglob("*")):
        if path.suffix not in (".yaml", "") or not path.is_file():  # what tasks include has no suffix
            continue
        text = path.read_text(encoding="utf-8", errors="replace")
        yield from ((name, kind, path) for kind, name in _NAME.findall(text))
        for listed in _TAGS.findall(text):
            yield from ((tag, "tag", path) for tag in re.findall(r"[\w.+/-]*\w", listed))

"""Benchmarks of a user's own: an lm-eval task file, named by its path where others are named by their name.

What it says is part of the score's key, wherever it lies: its fields with those of the files it includes, the Python
files that its `!function` tags name, and the local files that its `dataset_kwargs` name.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from athanor.core.errors import UserError
from athanor.core.keys import sha256_file
from athanor.tasks.benchmarks.task_files import task_fields

if TYPE_CHECKING:
    from lm_eval.tasks import TaskManager

SUFFIXES = (".yaml", ".yml")
_FUNCTION = re.compile(r"!function[ \t]+[\"']?([\w.]+)\.\w+")


def is_own(name: str) -> bool:
    """Whether a benchmark's name is the path of a task file."""
    return name.endswith(SUFFIXES)


def task_name(name: str) -> str:
    """A benchmark's name without a path: of a task file its `task`. UserError where it has none."""
    if not is_own(name):
        return name
    fields: dict[str, Any] = {}
    for path in _task_files(_file(name)):
        fields = {**_read(path), **fields}
    if not isinstance(fields.get("task"), str):
        what = "defines a group; give the file of one task" if "group" in fields else "has no `task: NAME`"
        raise UserError(f"evaluation task {name}: it {what}")
    return fields["task"]


def own_sha256(name: str) -> str:
    """Of all that a task file says. UserError where it or a file that it includes cannot be read."""
    digests = [sha256_file(path) for path in _files(_file(name))]
    return hashlib.sha256("\n".join(digests).encode()).hexdigest()


def own_manager(name: str) -> TaskManager:
    """A task manager that knows the file's task alone, under its own name. UserError where the file is none."""
    task_name(name)
    from lm_eval.tasks import TaskManager
    from lm_eval.tasks._index import TaskIndex
    from lm_eval.tasks._yaml_loader import load_yaml

    path = _file(name)
    tasks = TaskManager(include_defaults=False)
    TaskIndex.process_cfg(load_yaml(path, resolve_func=False, recursive=True), path, tasks.task_index)
    return tasks


def _file(name: str) -> Path:
    path = Path(name).expanduser().resolve()
    if not path.is_file():
        raise UserError(f"evaluation task {name}: no such file; correct the path, or name a task of `athanor tasks`")
    return path


def _read(path: Path) -> dict[str, Any]:
    import yaml

    try:
        fields = task_fields(path)
    except OSError as error:
        raise UserError(f"evaluation task {path}: {error.strerror}") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise UserError(f"evaluation task {path} is no YAML: {' '.join(str(error).split())[:200]}") from None
    if not isinstance(fields, dict):
        raise UserError(f"evaluation task {path}: must hold fields such as `task: NAME`")
    return fields


def _task_files(path: Path, above: tuple[Path, ...] = ()) -> Iterator[Path]:
    """The file and those it includes, its own first. UserError where one cannot be read or includes itself."""
    if path in above:
        raise UserError(f"evaluation task {path} includes itself")
    yield path
    included = _read(path).get("include")
    for other in [included] if isinstance(included, str) else included or []:
        yield from _task_files(path.parent / other, (*above, path))


def _files(path: Path) -> Iterator[Path]:
    """All that decides the task, each file once: task files, Python files, data."""
    seen = dict.fromkeys(_task_files(path))
    for task_file in list(seen):
        for module in _FUNCTION.findall(task_file.read_text(encoding="utf-8")):
            seen[task_file.parent / f"{module.replace('.', '/')}.py"] = None
        kwargs = _read(task_file).get("dataset_kwargs")
        seen |= dict.fromkeys(map(Path, _strings(kwargs.get("data_files") if isinstance(kwargs, dict) else None)))
    return (file for file in seen if file.is_file())


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _strings(inner)

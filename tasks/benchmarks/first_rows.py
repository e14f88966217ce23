"""The rows of a benchmark's local file: what no task could score is named by file and row before anything runs.

A plan looks at the first of them, an evaluation at all. Every row must be a JSON object, or a row of a Parquet file,
and have the fields that the task's templates name. Of multiple choice two forms are known: `answerKey` that is one of
`choices.label`, and `label` or `answer` that is an index into a list of `choices`. A row is counted as editors count
lines, blank ones too; in an array as the array does.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from athanor.core.errors import UserError

FIRST_ROWS = 1000
_TEMPLATES = ("doc_to_text", "doc_to_target", "doc_to_choice")
_ANSWER_FIELDS = ("choices", "answerKey", "label", "answer")


def check_rows(task: str, path: Path, fields: Sequence[str] = (), most: int | None = FIRST_ROWS) -> None:
    """Raise UserError, one line, for the first of so many rows, or of all, that is no object, lacks one of the fields
    or has no possible answer, and for a file that cannot be read."""
    for number, row in islice(_rows(task, path, fields), most):
        problem = row if isinstance(row, str) else missing_field(row, fields) or _wrong_answer(row)
        if problem:
            raise bad_row(task, path, f"row {number}", problem)


def row_numbers(task: str, path: Path) -> list[int]:
    """The number of each row, as it is said; those of blank lines are left out."""
    return [number for number, _ in _rows(task, path, ())]


def template_fields(config: Mapping[str, Any]) -> list[str]:
    """The fields that a task's templates name; what its functions read is not known."""
    from jinja2 import Environment
    from jinja2.meta import find_undeclared_variables

    templates = (config.get(name) for name in _TEMPLATES)
    found = [find_undeclared_variables(Environment().parse(text)) for text in templates if isinstance(text, str)]
    return sorted(set().union(*found))


def missing_field(row: Mapping[str, Any], fields: Sequence[str]) -> str | None:
    """What is wrong with a row that lacks one of the fields; null is none, though lm-eval would write "None"."""
    missing = next((field for field in fields if row.get(field) is None), None)
    return None if missing is None else f"field {missing!r} is missing or null"


def bad_row(task: str, path: Path, row: str, problem: str) -> UserError:
    """The one line that names a row and what is wrong with it."""
    return UserError(f"task {task}: {path}, {row}: {problem}; correct the row or remove it")


def _rows(task: str, path: Path, fields: Sequence[str]) -> Iterator[tuple[int, dict[str, Any] | str]]:
    """Each row's number with its fields, of Parquet only these and what decides the answer; or with what is wrong."""
    if path.suffix == ".parquet":
        yield from enumerate(_parquet_rows(task, path, {*fields, *_ANSWER_FIELDS}), start=1)
        return
    with path.open("rb") as file:
        if path.suffix == ".json" and file.read(1) == b"[":
            file.seek(0)
            yield from enumerate(_array(task, path, file.read()), start=1)
            return
        file.seek(0)
        for number, line in enumerate(file, start=1):
            if line.strip():
                yield number, _parsed(line)


def _parsed(line: bytes) -> dict[str, Any] | str:
    try:
        return _object(json.loads(line))
    except (ValueError, RecursionError):
        return "not JSON"


def _array(task: str, path: Path, content: bytes) -> Iterator[dict[str, Any] | str]:
    try:
        rows = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise UserError(f"task {task}: {path} is no JSON array ({error}); correct the file") from None
    yield from map(_object, rows)


def _object(row: Any) -> dict[str, Any] | str:
    return row if isinstance(row, dict) else f"a JSON {type(row).__name__}, not an object"


def _parquet_rows(task: str, path: Path, fields: Collection[str]) -> Iterator[dict[str, Any]]:
    import pyarrow
    from pyarrow import parquet

    try:
        with parquet.ParquetFile(path) as table:
            columns = [name for name in table.schema_arrow.names if name in fields]
            for batch in table.iter_batches(FIRST_ROWS, columns=columns):
                yield from batch.to_pylist() if columns else [{}] * batch.num_rows
    except (OSError, pyarrow.ArrowException) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"task {task}: {path} is no sound Parquet file ({reason}); replace it") from None


def _wrong_answer(row: dict[str, Any]) -> str | None:
    choices, key = row.get("choices"), row.get("answerKey")
    if isinstance(choices, dict) and key is not None and isinstance(labels := choices.get("label"), list):
        if key not in labels:
            return f"answerKey {key!r:.40} is not among its choices {', '.join(map(str, labels)) or '(none)'}"
    elif isinstance(choices, list):
        for name in ("label", "answer"):
            index = row.get(name)
            if type(index) is int and not 0 <= index < len(choices):
                return f"{name} {index} is not among its {len(choices)} choices, which are counted from 0"
    return None

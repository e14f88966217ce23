"""The first rows of a benchmark's local file: what no task could score is named by file and row before anything runs.

Every row must be a JSON object. Of multiple choice two forms are known: `answerKey` that is one of `choices.label`, and
`label` or `answer` that is an index into a list of `choices`.
"""

from __future__ import annotations

import json
from itertools import islice
from pathlib import Path
from typing import Any

from athanor.core.errors import UserError

FIRST_ROWS = 1000


def check_rows(task: str, path: Path) -> None:
    """Raise UserError, one line, for the first of the rows of a .jsonl that is no object or has no possible answer."""
    with path.open("rb") as file:
        for number, line in enumerate(islice(file, FIRST_ROWS), start=1):
            if line.strip() and (problem := _problem(line)):
                raise UserError(f"task {task}: {path}, row {number}: {problem}; correct the row or remove it")


def _problem(line: bytes) -> str | None:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return "not JSON"
    if not isinstance(row, dict):
        return f"a JSON {type(row).__name__}, not an object"
    return _wrong_answer(row)


def _wrong_answer(row: dict[str, Any]) -> str | None:
    choices, key = row.get("choices"), row.get("answerKey")
    if isinstance(choices, dict) and key is not None and isinstance(labels := choices.get("label"), list):
        if key not in labels:
            return f"answerKey {key!r:.40} is not among its choices {', '.join(map(str, labels))}"
    elif isinstance(choices, list):
        for name in ("label", "answer"):
            index = row.get(name)
            if type(index) is int and not 0 <= index < len(choices):
                return f"{name} {index} is not among its {len(choices)} choices, which are counted from 0"
    return None

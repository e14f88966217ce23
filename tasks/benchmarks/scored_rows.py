"""What a task makes of each row of a local file, tried on all that are scored before the model reads any.

lm-eval ends in whatever its templates raise, without saying where, writes a field that is null as "None" into the
prompt, and counts an answer that is not among the choices as wrong.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from athanor.tasks.benchmarks.first_rows import bad_row, missing_field, row_numbers, template_fields


def check_scored_rows(name: str, path: Path, tasks: dict[str, Any], limit: int | None) -> None:
    """Raise UserError, one line naming file and row, for the first row that the tasks cannot score."""
    numbers = row_numbers(name, path)
    for task in tasks.values():
        fields = [field for field in template_fields(task.config.to_dict()) if field in task.features]
        as_in_file = len(task.eval_docs) == len(numbers)  # a task may leave rows out, and then counts by itself
        for index, document in task.doc_iterator(limit=limit):
            if problem := _problem(task, document, fields):
                row = f"row {numbers[index]}" if as_in_file else f"the task's document {index + 1}"
                raise bad_row(name, path, row, problem)


def _problem(task: Any, document: dict[str, Any], fields: list[str]) -> str | None:
    if problem := missing_field(document, fields):
        return problem
    try:
        text, target = task.doc_to_text(document), task.doc_to_target(document)
        choices = task.doc_to_choice(document) if task.OUTPUT_TYPE == "multiple_choice" else None
    except Exception as error:  # whatever templates and the functions of task files raise
        return f"no prompt and answer can be made of it ({type(error).__name__}: {' '.join(str(error).split())[:200]})"
    if choices is None:
        return None
    right = text if getattr(task, "multiple_input", 0) else target
    problems = (_outside(one, choices) for one in (right if isinstance(right, list) else [right]))
    return next((problem for problem in problems if problem), None)


def _outside(right: Any, choices: list[str]) -> str | None:
    """What is wrong with an answer that is the place of a choice, or one of them."""
    inside = 0 <= right < len(choices) if isinstance(right, int) else right in choices
    return None if inside else f"answer {right!r:.40} is not among its {len(choices)} choices"

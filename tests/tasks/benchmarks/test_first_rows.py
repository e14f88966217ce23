"""A local benchmark file with a row that no task could score is refused by file and row."""

from __future__ import annotations

import json

import pytest

from athanor.core.errors import UserError
from athanor.tasks.benchmarks.first_rows import check_rows

GOOD = {"question": "?", "choices": {"text": ["stone", "lamp"], "label": ["A", "B"]}, "answerKey": "B"}


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        (json.dumps({**GOOD, "answerKey": "E"}), "answerKey 'E' is not among its choices A, B"),
        (json.dumps({"choices": ["a", "b"], "label": 2}), "label 2 is not among its 2 choices"),
        (json.dumps({"choices": ["a", "b"], "answer": -1}), "answer -1 is not among its 2 choices"),
        ('{"question": "cut', "not JSON"),
        ("[1]", "a JSON list, not an object"),
    ],
)
def test_a_row_without_a_possible_answer_is_named(tmp_path, row, problem):
    file = tmp_path / "arc.jsonl"
    file.write_text("\n".join([json.dumps(GOOD), "", row, json.dumps(GOOD)]))
    with pytest.raises(UserError) as caught:
        check_rows("arc_easy", file)
    assert str(caught.value).startswith(f"task arc_easy: {file}, row 3: {problem}")
    assert "\n" not in str(caught.value)


def test_rows_of_other_forms_are_the_tasks_own_business(tmp_path):
    file = tmp_path / "rows.jsonl"
    rows = [GOOD, {"choices": ["a", "b"], "label": 1}, {"question": "2 + 2", "answer": 4}, {"choices": "a, b"}]
    file.write_text("\n".join(map(json.dumps, rows)))
    check_rows("any", file)

"""Whatever a task cannot make of a row of a local file is one line with file and row, before the model reads any."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest

from athanor.core.errors import UserError
from athanor.tasks.benchmarks.scored_rows import check_scored_rows

GOOD = {"question": "Which?", "choices": ["stone", "lamp"], "label": 1}


class Task:
    """As much of an lm-eval task as is looked at."""

    OUTPUT_TYPE = "multiple_choice"
    features = ("question", "choices", "label")

    def __init__(self, documents):
        self.eval_docs = documents
        self.config = SimpleNamespace(to_dict=lambda: {"doc_to_text": "{{question}}", "doc_to_choice": len})

    def doc_iterator(self, limit):
        yield from list(enumerate(self.eval_docs))[:limit]

    def doc_to_text(self, document):
        return document["question"].strip()

    def doc_to_target(self, document):
        return document["label"]

    def doc_to_choice(self, document):
        return document["choices"]


@pytest.fixture
def file(tmp_path):
    """A file of these rows, with a blank line after the first."""

    def write(*rows):
        path = tmp_path / "rows.jsonl"
        path.write_text("\n\n".join([json.dumps(rows[0]), "\n".join(map(json.dumps, rows[1:]))]))
        return path

    return write


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ({**GOOD, "question": None}, "field 'question' is missing or null"),
        ({**GOOD, "question": 3}, "no prompt and answer can be made of it (AttributeError: 'int'"),
        ({**GOOD, "label": 2}, "answer 2 is not among its 2 choices"),
        ({**GOOD, "label": -1}, "answer -1 is not among its 2 choices"),
        ({**GOOD, "label": "fire"}, "answer 'fire' is not among its 2 choices"),
        ({**GOOD, "label": [0, 2]}, "answer 2 is not among its 2 choices"),
    ],
)
def test_a_row_that_cannot_be_scored_is_named_by_file_and_line(file, row, problem):
    rows = [GOOD, {**GOOD, "label": "lamp"}, row]
    path = file(*rows)
    with pytest.raises(UserError) as caught:
        check_scored_rows("mine", path, {"mine": Task(rows)}, None)
    assert str(caught.value).startswith(f"task mine: {path}, row 4: {problem}")
    assert "\n" not in str(caught.value)
    check_scored_rows("mine", path, {"mine": Task(rows)}, limit=2)


def test_rows_that_a_task_leaves_out_are_not_counted(file):
    path = file(GOOD, GOOD, {**GOOD, "label": 2})
    with pytest.raises(UserError, match=r"rows\.jsonl, the task's document 2: answer 2"):
        check_scored_rows("mine", path, {"mine": Task([GOOD, {**GOOD, "label": 2}])}, None)


def test_where_the_question_is_the_choice_its_place_is_looked_at(file):
    task = Task([{**GOOD, "question": " ", "label": "ending"}])
    task.multiple_input = 1
    task.doc_to_text = lambda document: 2
    with pytest.raises(UserError, match="answer 2 is not among its 2 choices"):
        check_scored_rows("mine", file(GOOD), {"mine": task}, None)

"""A local benchmark file with a row that no task could score is refused by file and row."""

from __future__ import annotations

import json

import pyarrow
import pytest
from pyarrow import parquet

from athanor.core.errors import UserError
from athanor.tasks.benchmarks.first_rows import FIRST_ROWS, check_rows, row_numbers, template_fields

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


def write(file, rows):
    match file.suffix:
        case ".parquet":
            parquet.write_table(pyarrow.Table.from_pylist(rows), file)
        case ".json":
            file.write_text(json.dumps(rows))
        case _:
            file.write_text("\n".join(map(json.dumps, rows)))


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".parquet"])
def test_an_evaluation_looks_at_every_row_of_every_kind_of_file(tmp_path, suffix):
    file = tmp_path / f"arc{suffix}"
    write(file, [GOOD] * FIRST_ROWS + [{**GOOD, "answerKey": "E"}])
    check_rows("arc_easy", file)
    with pytest.raises(UserError, match=rf"arc\{suffix}, row {FIRST_ROWS + 1}: answerKey 'E' is not among"):
        check_rows("arc_easy", file, most=None)


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".parquet"])
def test_a_field_that_a_template_names_must_be_there(tmp_path, suffix):
    file = tmp_path / f"arc{suffix}"
    write(file, [GOOD, {**GOOD, "question": None}])
    fields = template_fields({"doc_to_text": "Q: {{ question.strip() }}", "doc_to_target": "answerKey"})
    with pytest.raises(UserError, match="row 2: field 'question' is missing or null"):
        check_rows("arc_easy", file, fields)
    with pytest.raises(UserError, match="row 1: field 'hint' is missing or null"):
        check_rows("arc_easy", file, ["hint"])


@pytest.mark.parametrize(
    ("name", "message"), [("a.json", "is no JSON array"), ("a.parquet", "is no sound Parquet file")]
)
def test_a_file_that_is_cut_is_one_line(tmp_path, name, message):
    (tmp_path / name).write_text("[{")
    with pytest.raises(UserError, match=message) as caught:
        check_rows("arc_easy", tmp_path / name)
    assert "\n" not in str(caught.value)


def test_the_numbers_of_rows_pass_over_blank_lines(tmp_path):
    (tmp_path / "a.jsonl").write_text("{}\n\n{}\n")
    assert row_numbers("arc_easy", tmp_path / "a.jsonl") == [1, 3]


def test_rows_of_other_forms_are_the_tasks_own_business(tmp_path):
    file = tmp_path / "rows.jsonl"
    rows = [GOOD, {"choices": ["a", "b"], "label": 1}, {"question": "2 + 2", "answer": 4}, {"choices": "a, b"}]
    file.write_text("\n".join(map(json.dumps, rows)))
    check_rows("any", file)

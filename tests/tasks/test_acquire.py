"""What is held out of a source is said, and where it is too little to judge by, before and after."""

from __future__ import annotations

import json

import pytest

from athanor.core.runtime import Runtime
from athanor.data.data_recipe import SourceRecipe
from athanor.flows.presets.preset import load_preset
from athanor.tasks.acquire import AcquireRecipe, build, foresee, held_out_text
from athanor.tasks.stage import StageRun

PRESET = load_preset("quickstart")


def source(tmp_path, documents: int, **fields) -> AcquireRecipe:
    rows = ({"text": f"document {n} " + "words " * 20} for n in range(documents))
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return AcquireRecipe.of(SourceRecipe(path=str(tmp_path / "rows.jsonl"), **fields))


def test_a_short_text_is_pointed_out_before_it_is_read(tmp_path):
    (line,) = foresee(source(tmp_path, 100), PRESET)
    assert line.warning and "rows.jsonl: held out about 289" in line.message and "too little to judge" in line.message
    assert list(foresee(source(tmp_path, 100, held_out_fraction=0.0), PRESET)) == []
    assert list(foresee(source(tmp_path, 10_000), PRESET)) == []


def test_files_that_are_passed_over_are_said_before_and_after(tmp_path):
    folder = tmp_path / "texts"
    folder.mkdir()
    (folder / ".notes").touch()
    recipe = source(folder, 100, held_out_fraction=0.0)
    recipe = AcquireRecipe.of(recipe.source.model_copy(update={"path": str(folder)}))
    (hidden,) = foresee(recipe, PRESET)
    assert not hidden.warning and hidden.message.endswith("passed over 1 of 2 files: 1 hidden (.notes)")
    (folder / "scan.pdf").touch()
    (other,) = foresee(recipe, PRESET)
    assert other.warning and "2 of 3 files: 1 .pdf (scan.pdf), 1 hidden (.notes)" in other.message

    said: list[str] = []
    facts = build(recipe, StageRun(tmp_path / "out", "", Runtime(), said.append, lambda *done: None))
    assert facts["files_passed_over"] == 2 and "passed over 2 of 3 files" in said[-1]


ALL = "of 3.00\u00a0MB (59.0\u00a0kB asked for)"
HELD_OUT = f"held out 120 documents, 60.0\u00a0kB {ALL}"
FACTS = {
    "documents": 6000,
    "held_out_documents": 120,
    "held_out_bytes": 60_000,
    "held_out_asked_bytes": 59_000,
    "text_bytes": 3_000_000,
}


@pytest.mark.parametrize(
    ("facts", "said"),
    [
        ({}, HELD_OUT),
        ({"held_out_copies": 7}, f"{HELD_OUT}; 7 copies of these were left out"),
        (
            {"duplicate_documents": 9, "duplicate_bytes": 500},
            f"{HELD_OUT}; 9 documents (500\u00a0B) repeat the text of others",
        ),
        (
            {"held_out_documents": 0, "held_out_bytes": 0, "held_out_asked_bytes": 0},
            "held out 0 documents, 0\u00a0B of 3.00\u00a0MB",
        ),
    ],
)
def test_what_is_held_out_is_said_in_documents_and_bytes(facts, said):
    assert held_out_text(FACTS | facts) == said


@pytest.mark.parametrize("facts", [{"held_out_documents": 7}, {"held_out_bytes": 79}, {"held_out_documents": 0}])
def test_too_little_to_judge_by_is_said_with_the_remedy(facts):
    text = held_out_text(FACTS | facts)
    assert (
        "too little to judge a model by (less than 8 documents or 20.0\u00a0kB)" in text and "held_out_fraction" in text
    )


def test_of_few_documents_no_larger_share_is_advised():
    text = held_out_text(FACTS | {"documents": 2, "held_out_documents": 1})
    assert "give more than 8 documents" in text and "held_out_fraction" not in text


def test_bad_records_are_counted_in_the_log(tmp_path):
    (tmp_path / "rows.jsonl").write_text('{"text": "good"}\n' * 399 + "cut\n")
    recipe, said = AcquireRecipe.of(SourceRecipe(path=str(tmp_path / "rows.jsonl"))), []
    build(recipe, StageRun(tmp_path / "out", "", Runtime(), said.append, lambda *done: None))
    assert "1 bad records left out (0.2 % of all)" in said[-1] and "rejects.jsonl" in said[-1]


def test_the_end_of_a_text_that_is_trained_on_is_called_so():
    text = held_out_text(FACTS | {"held_out_documents": 1, "held_out_end_of": "book.txt"})
    assert "the end of book.txt, whose beginning is trained on" in text

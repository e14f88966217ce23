"""What the stage says of a source: how much is held out, copies, and whether it is enough."""

import json
from pathlib import Path

from athanor.core.progress import silent
from athanor.core.runtime import Runtime
from athanor.data.data_recipe import SourceRecipe
from athanor.tasks.acquire import STAGE, AcquireRecipe
from athanor.tasks.stage import StageRun


def acquired(path: Path, **fields) -> tuple[dict, list[str]]:
    """The facts and the log."""
    said: list[str] = []
    run = StageRun(path.parent / "out", "key", Runtime(), said.append, silent)
    return STAGE.build(AcquireRecipe.of(SourceRecipe(path=str(path), **fields)), run), said


def write_rows(path: Path, texts: list[str]) -> None:
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))


def test_held_out_text_and_copies_are_said_and_too_little_is_a_warning(tmp_path):
    write_rows(tmp_path / "rows.jsonl", [f"document {n % 500} " + "word " * 20 for n in range(600)])
    facts, said = acquired(tmp_path / "rows.jsonl")
    assert facts["duplicate_documents"] == 100
    copies, held_out, warning = (line.removeprefix(f"{tmp_path}/rows.jsonl: ") for line in said)
    assert copies.startswith("100 documents (") and held_out.startswith("held out 10 documents: ")
    assert warning.startswith("warning: ") and "too little to compare models by" in warning


def test_the_end_of_a_text_that_is_trained_on_is_called_that(tmp_path):
    (tmp_path / "book.txt").write_text("\n\n".join(f"Paragraph {n}. {'words ' * 20}" for n in range(200)))
    _, (held_out, warning) = acquired(tmp_path / "book.txt")
    assert "held out the end of the one document" in held_out and "the end of the text it trains on" in warning


def test_enough_text_has_no_warning(tmp_path):
    write_rows(tmp_path / "rows.jsonl", [f"document {n} " + "word " * 2000 for n in range(600)])
    _, said = acquired(tmp_path / "rows.jsonl")
    assert len(said) == 1 and "held out 12 documents" in said[0]

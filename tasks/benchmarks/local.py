"""The test documents of the local tasks, as one JSON Lines file each.

Word problems come from the held-out keys of the generator under a seed of their own; what is trained on has other
keys whatever its seed. Bits per byte reads the held-out documents of the sources, in the form in which tokenizers count
their bytes, so that all models are measured by the same ones.
"""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Callable, Iterator, Mapping
from itertools import islice, takewhile
from pathlib import Path
from typing import Any

from athanor.core.errors import UserError
from athanor.data.documents import read_documents
from athanor.data.sources.word_problems import SUMS_AND_DIFFERENCES, Problem, generate
from athanor.tasks.benchmarks.task_recipe import EvalTaskRecipe

FOLDER = Path(__file__).parent
BITS_PER_BYTE = "bits_per_byte"
SEED = 20_260
DEFAULT_PROBLEMS = 500

Documents = Mapping[str, Path]  # source -> documents artifact


def local_names() -> list[str]:
    """Names of the local tasks: each is a file of this folder."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def what_it_is(name: str) -> str:
    """What a local task measures: the comment its file begins with."""
    lines = takewhile(
        lambda line: line.startswith("#"), (FOLDER / f"{name}.yaml").read_text(encoding="utf-8").splitlines()
    )
    return " ".join(line.removeprefix("#").strip() for line in lines)


def reads_documents(recipe: EvalTaskRecipe) -> bool:
    """Whether the task is scored on the held-out documents of the data sources."""
    return recipe.name == BITS_PER_BYTE


def write_test_documents(name: str, file: Path, documents: Documents | None, limit: int | None) -> None:
    """Write what local task `name` is scored on: `limit` problems, or documents per source.

    Raises UserError where bits per byte is given no held-out text.
    """
    rows = list(_ROWS[name](documents, limit))
    if not rows:
        raise UserError(f"task {name}: the sources hold no held-out text; raise their held_out_fraction")
    with file.open("w", encoding="utf-8") as out:
        out.writelines(json.dumps(row) + "\n" for row in rows)


def _problems(_: Documents | None, limit: int | None) -> Iterator[dict[str, Any]]:
    for problem in islice(generate(SEED, "held_out"), limit or DEFAULT_PROBLEMS):
        yield {"question": problem.question, "value": str(problem.value)}


def _problems_20(_: Documents | None, limit: int | None) -> Iterator[dict[str, Any]]:
    easy = (problem for problem in generate(SEED, "held_out") if problem.kind in SUMS_AND_DIFFERENCES)
    for problem in islice(easy, limit or DEFAULT_PROBLEMS):
        yield {"question": problem.question, "value": str(problem.value)}


def _choices(_: Documents | None, limit: int | None) -> Iterator[dict[str, Any]]:
    for problem in islice(generate(SEED, "held_out"), limit or DEFAULT_PROBLEMS):
        choices = [_worked(problem, value) for value in problem.choices]
        yield {"question": problem.question, "choices": choices, "label": problem.correct_choice}


def _worked(problem: Problem, value: int) -> str:
    """The worked answer with another last result."""
    ending = "{0}. #### {0}"
    return problem.answer.removesuffix(ending.format(problem.value)) + ending.format(value)


def _held_out(documents: Documents | None, limit: int | None) -> Iterator[dict[str, Any]]:
    for source, folder in (documents or {}).items():
        texts = (document.text for document in read_documents(folder, "held_out") if document.text)
        for text in islice(texts, limit):
            yield {"text": unicodedata.normalize("NFC", text), "source": source}


_ROWS: dict[str, Callable[[Documents | None, int | None], Iterator[dict[str, Any]]]] = {
    "word_problems": _problems,
    "word_problems_20": _problems_20,
    "word_problems_choice": _choices,
    BITS_PER_BYTE: _held_out,
}

"""What is asked once and remembered: a file of ATHANOR_HOME with one question and its answer a line.

The first answer to a question counts, whoever wrote it; lines that are torn or make no sense are passed over. The file
may be deleted at any time, and everything is asked again; a home that cannot be written to remembers nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

from athanor.core.disk import home
from athanor.core.rows import RowWriter, read_rows

Question = Mapping[str, Any]


class Notes:
    """The notes in one file of the home; questions and answers are plain JSON values."""

    def __init__(self, name: str):
        self._name = name

    @property
    def path(self) -> Path:
        """Where they are now."""
        return home() / self._name

    def answer(self, question: Question) -> Any | None:
        """What was noted first of a question; None if nothing was."""
        with suppress(OSError, RecursionError):
            for row in read_rows(self.path):
                if row.get("question") == dict(question) and row.get("answer") is not None:
                    return row["answer"]
        return None

    def note(self, question: Question, answer: Any) -> None:
        """Remember an answer, unless there is one."""
        if self.answer(question) is not None:
            return
        with suppress(OSError):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with closing(RowWriter(self.path)) as writer:
                writer.append({"question": dict(question), "answer": answer})

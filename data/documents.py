"""The documents artifact: one source's texts, split into training and held-out, as Parquet parts.

    train-00000.parquet ... held_out-00000.parquet ...   columns text, ref ("train.jsonl:12")
    rejects.jsonl                                        {"file", "line", "reason"} of what was left out

Texts are streamed: memory holds one row group and one document, never the corpus. The result depends on
the recipe and the source's bytes alone. What is held out is chosen when all texts are known, whole documents by their
hash (data/hash_order.py); until then they wait in parts of their own, which are gone when the artifact is whole. Of a
source that is one whole file (one textbook) and nothing else the last `held_out_fraction`, from a paragraph boundary
on, is held out, and the facts say so; one single record is trained on. Generated word problems bring their split.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from athanor.core.errors import UserError
from athanor.core.progress import Progress, silent
from athanor.data.data_recipe import SourceRecipe
from athanor.data.sources.records import BadRecord, Raw, Reject, text_reader
from athanor.data.sources.source import source_of
from athanor.data.splits import SPLITS, Split

ROW_GROUP_BYTES = 8 << 20  # of text, uncompressed
PART_BYTES = 256 << 20
_WAITING = "waiting"
_HOPELESS_REJECTS = 1000  # all of the first so many were bad: the recipe is wrong, not the data
_PROGRESS_DOCUMENTS = 500


@dataclass(frozen=True, slots=True)
class Document:
    """One text and where it came from. For chat sources `text` is the canonical JSON of the messages."""

    text: str
    ref: str


def write_documents(recipe: SourceRecipe, out: Path, progress: Progress = silent) -> dict[str, Any]:
    """Write a source's documents into the folder `out` and return the facts.

    Facts: `documents` (all that are written; a divided one counts as two), `text_bytes` (theirs, UTF-8), `rejected`;
    `held_out_documents`, `held_out_bytes`, `held_out_asked_bytes`, `held_out_copies` (left out, for they are held out
    already), `held_out_is_end`; `duplicate_documents` and `duplicate_bytes`, of those whose text came before.
    Raises UserError when nothing usable is found, when more than `max_reject_fraction` of the records are
    bad (naming the first), and for every mistake the source finds.
    """
    out.mkdir(parents=True, exist_ok=True)
    tally = _Tally(recipe)
    with (
        _DocumentSplits(out, recipe.held_out_fraction) as writer,
        open(out / "rejects.jsonl", "w", encoding="utf-8") as rejects,
    ):
        for item in _texts(recipe, source_of(recipe).read):
            if isinstance(item, Reject):
                rejects.write(json.dumps({"file": item.file, "line": item.line, "reason": item.reason}) + "\n")
                tally.reject(item)
                continue
            raw, text = item
            writer.add(raw, text)
            tally.accept(text)
            if tally.documents % _PROGRESS_DOCUMENTS == 0:
                progress(tally.documents, recipe.max_documents, "documents")
            if tally.full:
                break
        tally.judge()
        writer.finish()
    progress(tally.documents, tally.documents, "documents")
    return {**writer.facts(), "rejected": tally.rejected}


def check_first_records(recipe: SourceRecipe) -> None:
    """Raise the UserError that `write_documents` would, if the first records already decide it: none of them can be
    used, or the source ends within them and too many are bad."""
    source = source_of(recipe)
    if source.first_records is None:
        return
    tally, ended = _Tally(recipe), object()
    items = _texts(recipe, source.first_records)
    for _ in range(_HOPELESS_REJECTS):
        item: Any = next(items, ended)
        if item is ended:
            if tally.rejected:
                tally.judge()
            return
        if isinstance(item, Reject):
            tally.reject(item)
        else:
            tally.accept(item[1])
        if tally.full:
            return


def read_documents(folder: Path, split: Split) -> Iterator[Document]:
    """The documents of one split in the order they were written; none if the split is empty."""
    return _read_parts(folder, split)


def _read_parts(folder: Path, name: str) -> Iterator[Document]:
    from pyarrow import parquet

    for part in sorted(folder.glob(f"{name}-*.parquet")):
        with parquet.ParquetFile(part) as table:
            for batch in table.iter_batches(256, columns=["text", "ref"]):
                for row in batch.to_pylist():
                    yield Document(row["text"], row["ref"])


def _texts(
    recipe: SourceRecipe, records: Callable[[SourceRecipe, Sequence[str]], Iterator[Raw | Reject]]
) -> Iterator[tuple[Raw, str] | Reject]:
    """Every usable text of the recipe's `records` with the record it came from; the rest as rejects."""
    fields, read = text_reader(recipe)
    for raw in records(recipe, fields):
        if isinstance(raw, Reject):
            yield raw
            continue
        try:
            text = read(raw.content)
            text.encode()
        except BadRecord as error:
            yield Reject(raw.file, raw.line, str(error))
        except UnicodeEncodeError as error:
            yield Reject(raw.file, raw.line, f"a lone surrogate at character {error.start}; it has no UTF-8 form")
        else:
            yield (raw, text) if text.strip() else Reject(raw.file, raw.line, "empty text")


class _Tally:
    """Counts what was kept and refused, and decides when to stop or to fail."""

    def __init__(self, recipe: SourceRecipe):
        self._recipe, self._title = recipe, source_of(recipe).title(recipe)
        self._first: Reject | None = None
        self.documents = self.rejected = self.text_bytes = 0

    @property
    def full(self) -> bool:
        """Whether max_documents or max_bytes is reached."""
        limits = ((self._recipe.max_documents, self.documents), (self._recipe.max_bytes, self.text_bytes))
        return any(limit is not None and reached >= limit for limit, reached in limits)

    def accept(self, text: str) -> None:
        self.documents += 1
        self.text_bytes += len(text.encode())

    def reject(self, item: Reject) -> None:
        self.rejected += 1
        self._first = self._first or item
        if self.rejected == _HOPELESS_REJECTS and not self.documents:
            self.judge()

    def judge(self) -> None:
        """Raise UserError when the share of rejects is over the limit, or when nothing was kept."""
        seen = self.documents + self.rejected
        limit = self._recipe.max_reject_fraction
        if self._first is not None and (self.rejected > limit * seen or not self.documents):
            raise UserError(
                f"{self._title}: {self.rejected} of {seen} records are bad (max_reject_fraction {limit:g}); "
                f"the first, {self._first.ref}: {self._first.reason}"
            )
        if not self.documents:
            raise UserError(f"{self._title}: holds no document; give a source with text")


class _DocumentSplits:
    """Sends documents to their split: at once where the source has fixed it, else when all are known."""

    def __init__(self, out: Path, held_out_fraction: float):
        from athanor.data.hash_order import HashOrder

        self._out, self._fraction = out, held_out_fraction
        self._parts: dict[Split, _PartWriter] = {s: _PartWriter(out, s) for s in SPLITS}
        self._waiting, self._order = _PartWriter(out, _WAITING), HashOrder(out)
        self._whole_files = True
        self._facts: dict[str, Any] = {}

    def __enter__(self) -> _DocumentSplits:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._order.__exit__(kind, error, at)
        for part in (*self._parts.values(), self._waiting):
            part.close()

    def facts(self) -> dict[str, Any]:
        """What was written and held out, as `write_documents` says; whole after `finish`."""
        train, held_out = self._parts["train"], self._parts["held_out"]
        return {
            "documents": train.documents + held_out.documents,
            "held_out_documents": held_out.documents,
            "held_out_bytes": held_out.text_bytes,
            "text_bytes": train.text_bytes + held_out.text_bytes,
            **self._facts,
        }

    def add(self, raw: Raw, text: str) -> None:
        if raw.split is not None:
            self._parts[raw.split].write(text, raw.ref)
            return
        self._waiting.write(text, raw.ref)
        self._order.add(text.encode())
        self._whole_files &= isinstance(raw.content, str)

    def finish(self) -> None:
        """Place what waits, and forget the waiting room."""
        self._waiting.close()
        choice = self._order.choose(self._fraction)
        pieces = self._divided() if self._order.documents == 1 and self._whole_files and self._fraction else None
        self._facts = {
            "held_out_asked_bytes": choice.asked_bytes or math.ceil(self._fraction * self.facts()["text_bytes"]),
            "held_out_copies": len(choice.copies),
            "held_out_is_end": pieces is not None,
            "duplicate_documents": choice.duplicate_documents,
            "duplicate_bytes": choice.duplicate_bytes,
        }
        if pieces is not None:
            ref, texts = pieces
            for split, text in zip(SPLITS, texts, strict=True):
                self._parts[split].write(text, ref)
        else:
            held_out, copies = _Ascending(choice.held_out), _Ascending(choice.copies)
            for ordinal, document in enumerate(_read_parts(self._out, _WAITING)):
                if ordinal in copies:
                    continue
                self._parts["held_out" if ordinal in held_out else "train"].write(document.text, document.ref)
        for part in self._out.glob(f"{_WAITING}-*.parquet"):
            part.unlink()

    def _divided(self) -> tuple[str, tuple[str, str]] | None:
        """The ref of the only document and its text in two; None where it has no place to cut."""
        (document,) = _read_parts(self._out, _WAITING)
        pieces = _cut(document.text, self._fraction)
        return None if pieces is None else (document.ref, pieces)


class _Ascending:
    """Membership in ascending ordinals, asked in ascending order."""

    def __init__(self, ordinals: Iterable[int]):
        self._rest = iter(ordinals)
        self._next = next(self._rest, None)

    def __contains__(self, ordinal: int) -> bool:
        found = ordinal == self._next
        if found:
            self._next = next(self._rest, None)
        return found


class _PartWriter:
    """Parquet parts of one name; row groups and parts end at fixed amounts of text."""

    def __init__(self, out: Path, name: str):
        self._out, self._name = out, name
        self._texts: list[str] = []
        self._refs: list[str] = []
        self._group_bytes = self._part_bytes = 0
        self._writer: Any = None
        self._next_part = 0
        self.documents = self.text_bytes = 0

    def write(self, text: str, ref: str) -> None:
        self._texts.append(text)
        self._refs.append(ref)
        text_bytes = len(text.encode())
        self.documents += 1
        self.text_bytes += text_bytes
        self._group_bytes += text_bytes
        if self._group_bytes >= ROW_GROUP_BYTES:
            self._flush()
        if self._part_bytes >= PART_BYTES:
            self.close()

    def close(self) -> None:
        """End the current part; the next document opens another."""
        self._flush()
        if self._writer is not None:
            self._writer.close()
            self._writer, self._part_bytes = None, 0

    def _flush(self) -> None:
        import pyarrow
        from pyarrow import parquet

        if not self._texts:
            return
        table = pyarrow.table({"text": self._texts, "ref": self._refs})
        if self._writer is None:
            path = self._out / f"{self._name}-{self._next_part:05d}.parquet"
            self._writer = parquet.ParquetWriter(path, table.schema, compression="zstd")
            self._next_part += 1
        self._writer.write_table(table)
        self._part_bytes += self._group_bytes
        self._texts, self._refs, self._group_bytes = [], [], 0


def _cut(text: str, fraction: float) -> tuple[str, str] | None:
    """`text` in two, the second about `fraction` of it: after a paragraph, else a line, else a word; or None.

    The parts join to the text again, neither is blank, and the second is at most half.
    """
    target = int(len(text) * (1 - fraction))
    for mark in ("\n\n", "\n", " "):
        after = [at + len(mark) for at in (text.rfind(mark, 0, target), text.find(mark, target)) if at >= 0]
        for at in sorted(after, key=lambda at: abs(at - target)):
            head, tail = text[:at], text[at:]
            if head.strip() and tail.strip() and len(tail) <= len(text) / 2:
                return head, tail
    return None

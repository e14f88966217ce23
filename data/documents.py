"""The documents artifact: one source's texts, split into training and held-out, as Parquet parts.

    train-00000.parquet ... held_out-00000.parquet ...   columns text, ref ("train.jsonl:12")
    rejects.jsonl                                        {"file", "line", "reason"} of what was left out

Texts are streamed: memory holds one row group and what data/document_splits.py keeps, which also says what is held out,
never the corpus. The result depends on the recipe and the source's bytes alone.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from athanor.core.errors import UserError
from athanor.core.progress import Progress, silent
from athanor.data.data_recipe import SourceRecipe
from athanor.data.document_splits import DocumentSplits
from athanor.data.sources.records import BadRecord, Raw, Reject, text_reader
from athanor.data.sources.source import source_of
from athanor.data.splits import SPLITS, Split

ROW_GROUP_BYTES = 8 << 20  # of text, uncompressed
PART_BYTES = 256 << 20
_HOPELESS_REJECTS = 1000  # all of the first so many were bad: the recipe is wrong, not the data
_PROGRESS_DOCUMENTS = 500


@dataclass(frozen=True, slots=True)
class Document:
    """One text and where it came from. For chat sources `text` is the canonical JSON of the messages."""

    text: str
    ref: str


def write_documents(recipe: SourceRecipe, out: Path, progress: Progress = silent) -> dict[str, Any]:
    """Write a source's documents into the folder `out` and return the facts.

    Facts: `documents` (written; a divided one counts as two), `held_out_documents`, `text_bytes` (UTF-8, of all that is
    written), `rejected`, `held_out_bytes`, `held_out_asked_bytes`; where there are any, `duplicate_documents` and
    `duplicate_bytes` (whose text came before), `held_out_copies` (those of held-out texts, left out) and
    `held_out_end_of` (the file that was divided).
    Raises UserError when nothing usable is found, when more than `max_reject_fraction` of the records are
    bad (naming the first), and for every mistake the source finds.
    """
    out.mkdir(parents=True, exist_ok=True)
    tally = _Tally(recipe)
    with (
        _Parts(out) as parts,
        closing(DocumentSplits(recipe.held_out_fraction, parts.write, out)) as splits,
        open(out / "rejects.jsonl", "w", encoding="utf-8") as rejects,
    ):
        for item in _texts(recipe, source_of(recipe).read):
            if isinstance(item, Reject):
                rejects.write(json.dumps({"file": item.file, "line": item.line, "reason": item.reason}) + "\n")
                tally.reject(item)
                continue
            raw, text = item
            splits.add(raw, text)
            tally.accept(text)
            if tally.documents % _PROGRESS_DOCUMENTS == 0:
                progress(tally.documents, recipe.max_documents, "documents")
            if tally.full:
                break
        tally.judge()
        splits.finish()
    progress(tally.documents, tally.documents, "documents")
    sometimes = {
        "duplicate_documents": splits.duplicates,
        "duplicate_bytes": splits.duplicate_bytes,
        "held_out_copies": splits.held_out_copies,
        "held_out_end_of": splits.divided,
    }
    return {
        "documents": sum(splits.documents.values()),
        "held_out_documents": splits.documents["held_out"],
        "text_bytes": sum(splits.bytes.values()),
        "rejected": tally.rejected,
        "held_out_bytes": splits.bytes["held_out"],
        "held_out_asked_bytes": round(splits.asked_bytes),
        **{name: value for name, value in sometimes.items() if value},
    }


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
    from pyarrow import parquet

    for part in sorted(folder.glob(f"{split}-*.parquet")):
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


class _Parts:
    """The Parquet parts of both splits."""

    def __init__(self, out: Path):
        self._parts: dict[Split, _PartWriter] = {split: _PartWriter(out, split) for split in SPLITS}

    def __enter__(self) -> _Parts:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for part in self._parts.values():
            part.close()

    def write(self, split: Split, text: str, ref: str) -> None:
        """Append a document to its split."""
        self._parts[split].write(text, ref)


class _PartWriter:
    """Parquet parts of one split; row groups and parts end at fixed amounts of text."""

    def __init__(self, out: Path, split: Split):
        self._out, self._split = out, split
        self._texts: list[str] = []
        self._refs: list[str] = []
        self._group_bytes = self._part_bytes = 0
        self._writer: Any = None
        self._next_part = 0

    def write(self, text: str, ref: str) -> None:
        self._texts.append(text)
        self._refs.append(ref)
        self._group_bytes += len(text.encode())
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
            path = self._out / f"{self._split}-{self._next_part:05d}.parquet"
            self._writer = parquet.ParquetWriter(path, table.schema, compression="zstd")
            self._next_part += 1
        self._writer.write_table(table)
        self._part_bytes += self._group_bytes
        self._texts, self._refs, self._group_bytes = [], [], 0

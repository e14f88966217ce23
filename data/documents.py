"""The documents artifact: one source's texts, split into training and held-out, as Parquet parts.

    train-00000.parquet ... held_out-00000.parquet ...   columns text, ref ("train.jsonl:12")
    rejects.jsonl                                        {"file", "line", "reason"} of what was left out

Texts are streamed: memory holds one row group and one document, never the corpus. The result depends on
the recipe and the source's bytes alone. Whether a text is held out is a property of the text (its hash
against `held_out_fraction`), so adding files moves nothing between the splits and equal texts share one. Only the last
document is placed by count, so that a small source has held-out text at all: if no other document was held
out it is, whole if it is a record, while of a whole file (one textbook) only the last
`held_out_fraction`, from a paragraph boundary on, is held out and the rest is trained on. A source of one single
record keeps it for training. Generated word problems bring their split with them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
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
_HOPELESS_REJECTS = 1000  # all of the first so many were bad: the recipe is wrong, not the data
_PROGRESS_DOCUMENTS = 500


@dataclass(frozen=True, slots=True)
class Document:
    """One text and where it came from. For chat sources `text` is the canonical JSON of the messages."""

    text: str
    ref: str


def write_documents(recipe: SourceRecipe, out: Path, progress: Progress = silent) -> dict[str, Any]:
    """Write a source's documents into the folder `out` and return the facts.

    Facts: `documents` (all; a divided last one counts as two), `held_out_documents`, `text_bytes` (UTF-8,
    of all), `rejected`.
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
    return {
        "documents": sum(writer.counts.values()),
        "held_out_documents": writer.counts["held_out"],
        "text_bytes": tally.text_bytes,
        "rejected": tally.rejected,
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


class _DocumentSplits:
    """Sends documents to their split. The last one waits, in case it must make up for an empty split."""

    def __init__(self, out: Path, held_out_fraction: float):
        self._fraction = held_out_fraction
        self._parts: dict[Split, _PartWriter] = {s: _PartWriter(out, s) for s in SPLITS}
        self._last: tuple[Raw, str] | None = None

    def __enter__(self) -> _DocumentSplits:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for part in self._parts.values():
            part.close()

    @property
    def counts(self) -> dict[Split, int]:
        """Documents written per split."""
        return {split: part.documents for split, part in self._parts.items()}

    def add(self, raw: Raw, text: str) -> None:
        if self._last is not None:
            previous, previous_text = self._last
            self._parts[self._split(previous, previous_text)].write(previous_text, previous.ref)
        self._last = raw, text

    def finish(self) -> None:
        """Write the last document where the docstring of this module says."""
        if self._last is None:
            return
        raw, text = self._last
        for split, piece in self._place_last(raw, text).items():
            self._parts[split].write(piece, raw.ref)

    def _split(self, raw: Raw, text: str) -> Split:
        return raw.split or ("held_out" if _hash_share(text) < self._fraction else "train")

    def _place_last(self, raw: Raw, text: str) -> dict[Split, str]:
        chosen = self._split(raw, text)
        if raw.split is not None or self._fraction == 0:
            return {chosen: text}
        if self.counts["train"] and (self.counts["held_out"] or chosen == "held_out"):
            return {chosen: text}
        pieces = _cut(text, self._fraction) if isinstance(raw.content, str) else None
        if pieces and not self.counts["held_out"]:
            return {"train": pieces[0], "held_out": pieces[1]}
        return {"held_out" if self.counts["train"] else "train": text}


class _PartWriter:
    """Parquet parts of one split; row groups and parts end at fixed amounts of text."""

    def __init__(self, out: Path, split: Split):
        self._out, self._split = out, split
        self._texts: list[str] = []
        self._refs: list[str] = []
        self._group_bytes = self._part_bytes = 0
        self._writer: Any = None
        self._next_part = 0
        self.documents = 0

    def write(self, text: str, ref: str) -> None:
        self._texts.append(text)
        self._refs.append(ref)
        self.documents += 1
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


def _hash_share(text: str) -> float:
    """The text's hash as a number in [0, 1)."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") / 2**64


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

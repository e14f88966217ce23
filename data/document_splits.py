"""Which documents are held out of training.

Whole documents, in the order of their hash, until the bytes that were asked for are reached: the split of a text is a
property of the text and of how much there is, so adding files moves next to nothing, and equal texts share a side. A
document with which more than twice what was asked for would be held out is passed over. Of equal texts one is held out
and counted, for evaluating a text twice tells no more than once.

Where that leaves less than half of what was asked for, the shortest record passed over is held out all the same. Whole
files (books) are not given away for a small share: the end of the first one passed over is held out, and that is said,
for a model that has read a book's beginning knows more of its end. A source of one single record keeps it for training.
Generated texts bring their split with them.

Memory does not grow with the source but for data/hash_order.py: texts wait in an unnamed file until all are known.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import SpooledTemporaryFile
from typing import TYPE_CHECKING

from athanor.data.sources.records import Raw
from athanor.data.splits import SPLITS, Split

if TYPE_CHECKING:
    from athanor.data.hash_order import Different, HashOrder

SPOOL_BYTES = 64 << 20  # of text, held in memory before it goes to the disk
_OVERSHOOT = 2  # times what was asked for
_LENGTHS = struct.Struct("<QQ")  # of a waiting text and its ref, UTF-8 bytes
Write = Callable[[Split, str, str], None]  # split, text, ref


class DocumentSplits:
    """Sends documents to their split, each in the order it came in; temporary files are in `folder`."""

    def __init__(self, held_out_fraction: float, write: Write, folder: Path):
        from athanor.data.hash_order import HashOrder

        self._fraction, self._write_out = held_out_fraction, write
        self._waiting = SpooledTemporaryFile(SPOOL_BYTES, dir=str(folder))  # noqa: SIM115
        self._order = HashOrder(folder)
        self._whole_files = True
        self.documents = dict.fromkeys(SPLITS, 0)
        self.bytes = dict.fromkeys(SPLITS, 0)
        self.asked_bytes = 0
        self.duplicates = self.duplicate_bytes = 0  # of documents whose text came before
        self.held_out_copies = 0  # of held-out texts, left out
        self.divided: str | None = None  # the file whose end is held out

    def add(self, raw: Raw, text: str) -> None:
        """Take the next document."""
        if raw.split is not None:
            self._write(raw.split, text, raw.ref)
            return
        content, ref = text.encode(), raw.ref.encode()
        self._waiting.write(_LENGTHS.pack(len(content), len(ref)) + content + ref)
        self._order.add(content)
        self._whole_files &= isinstance(raw.content, str)

    def finish(self) -> None:
        """Place what waits for the end of the source."""
        chosen = choose(self._order, self._fraction)
        held_out = {text.ordinal for text in chosen.held_out}
        copies = {ordinal for text in chosen.held_out for ordinal in text.copies}
        first = chosen.first_passed_over
        if chosen.is_short and self._whole_files and first is not None and not first.copies:
            dividing = first.ordinal
        else:
            dividing = None
            if chosen.is_short and not self._whole_files and chosen.shortest_passed_over is not None:
                held_out.add(chosen.shortest_passed_over.ordinal)
                copies |= set(chosen.shortest_passed_over.copies)
        for ordinal, (text, ref) in enumerate(self._waited()):
            if ordinal == dividing:
                self._divide(text, ref, chosen.asked_bytes)
            elif ordinal not in copies:
                self._write("held_out" if ordinal in held_out else "train", text, ref)
        self.held_out_copies = len(copies)
        self.asked_bytes = chosen.asked_bytes
        self.duplicates, self.duplicate_bytes = chosen.duplicates, chosen.duplicate_bytes
        self.close()

    def close(self) -> None:
        """Forget what waits."""
        self._waiting.close()
        self._order.close()

    def _waited(self) -> Iterator[tuple[str, str]]:
        self._waiting.seek(0)
        while head := self._waiting.read(_LENGTHS.size):
            text_bytes, ref_bytes = _LENGTHS.unpack(head)
            yield self._waiting.read(text_bytes).decode(), self._waiting.read(ref_bytes).decode()

    def _divide(self, text: str, ref: str, asked_bytes: float) -> None:
        pieces = cut(text, min(asked_bytes / len(text.encode()), 0.5))
        if pieces is None:
            self._write("train", text, ref)
            return
        for split, piece in zip(SPLITS, pieces, strict=True):
            self._write(split, piece, ref)
        self.divided = ref

    def _write(self, split: Split, text: str, ref: str) -> None:
        self.documents[split] += 1
        self.bytes[split] += len(text.encode())
        self._write_out(split, text, ref)


@dataclass
class Choice:
    """What to hold out, of how much, and of what was passed over the first by hash and the shortest."""

    asked_bytes: float
    held_out: list[Different] = field(default_factory=list)
    held_out_bytes: int = 0
    first_passed_over: Different | None = None
    shortest_passed_over: Different | None = None
    duplicates: int = 0
    duplicate_bytes: int = 0

    @property
    def is_short(self) -> bool:
        """Whether less than half of what was asked for is held out."""
        return self.held_out_bytes < self.asked_bytes / 2


def choose(order: HashOrder, fraction: float) -> Choice:
    """The texts to hold out, by the rule of this module; at least one is left for training."""
    choice, different = Choice(fraction * order.text_bytes), 0
    for text in order:
        different += 1
        choice.duplicates += len(text.copies)
        choice.duplicate_bytes += len(text.copies) * text.text_bytes
    for text in order:
        if choice.held_out_bytes >= choice.asked_bytes or len(choice.held_out) + 1 == different > 1:
            break
        if different > 1 and choice.held_out_bytes + text.text_bytes <= _OVERSHOOT * choice.asked_bytes:
            choice.held_out.append(text)
            choice.held_out_bytes += text.text_bytes
            continue
        choice.first_passed_over = choice.first_passed_over or text
        shortest = choice.shortest_passed_over
        if different > 1 and (shortest is None or text.text_bytes < shortest.text_bytes):
            choice.shortest_passed_over = text
    return choice


def cut(text: str, fraction: float) -> tuple[str, str] | None:
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

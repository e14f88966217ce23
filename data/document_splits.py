"""Which documents are held out of training.

Whole documents, in the order of their hash, until the bytes that were asked for are reached: the split of a text is a
property of the text and of how much there is, so adding files moves next to nothing, and equal texts share a side. A
document that alone would take twice what was asked for is passed over. Of equal texts one is held out and counted, for
evaluating a text twice tells no more than once.

Sources of more than EXACT_BYTES are streamed: there the hash alone decides, which comes to the same share of bytes.

If every document is too long for that, the shortest record is held out all the same; whole files (books) are not given
away for a small share: the end of the one that comes first is held out, and that is said, for a model that has read a
book's beginning knows more of its end. A source of one single record keeps it for training. Generated texts bring their
split with them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence

from athanor.data.sources.records import Raw
from athanor.data.splits import SPLITS, Split

EXACT_BYTES = 64 << 20  # of text, which is held in memory until the source has ended
_OVERSHOOT = 2  # times what was asked for
Write = Callable[[Split, str, str], None]  # split, text, ref


class DocumentSplits:
    """Sends documents to their split, each in the order it came in."""

    def __init__(self, held_out_fraction: float, write: Write):
        self._fraction, self._write_out = held_out_fraction, write
        self._waiting: list[tuple[Raw, str]] | None = []
        self._waiting_bytes = 0
        self._held_out: set[int] = set()  # hashes
        self.documents = dict.fromkeys(SPLITS, 0)
        self.bytes = dict.fromkeys(SPLITS, 0)
        self.held_out_copies = 0  # of held-out texts, left out
        self.divided: str | None = None  # the file whose end is held out

    def add(self, raw: Raw, text: str) -> None:
        """Take the next document."""
        if raw.split is not None or self._fraction == 0:
            self._write(raw.split or "train", text, raw.ref)
        elif self._waiting is None:
            self._by_hash(raw, text)
        else:
            self._waiting.append((raw, text))
            self._waiting_bytes += len(text.encode())
            if self._waiting_bytes > EXACT_BYTES:
                waiting, self._waiting = self._waiting, None
                for document in waiting:
                    self._by_hash(*document)

    def finish(self) -> None:
        """Place what waits for the end of the source."""
        waiting, self._waiting = self._waiting or [], None
        texts = [text for _, text in waiting]
        chosen, divided = held_out_texts(texts, self._fraction), None
        if not chosen and all(isinstance(raw.content, str) for raw, _ in waiting):
            divided = _divided(texts, self._fraction)
        if not chosen and divided is None:
            chosen = shortest(texts)
        for i, (raw, text) in enumerate(waiting):
            if divided is not None and i == divided[0]:
                self._write("train", divided[1], raw.ref)
                self._write("held_out", divided[2], raw.ref)
                self.divided = raw.ref
            else:
                self._place(raw, text, held_out=text in chosen)

    def _by_hash(self, raw: Raw, text: str) -> None:
        self._place(raw, text, held_out=_hash(text) < self._fraction * 2**64)

    def _place(self, raw: Raw, text: str, *, held_out: bool) -> None:
        if not held_out:
            self._write("train", text, raw.ref)
        elif (key := _hash(text)) in self._held_out:
            self.held_out_copies += 1
        else:
            self._held_out.add(key)
            self._write("held_out", text, raw.ref)

    def _write(self, split: Split, text: str, ref: str) -> None:
        self.documents[split] += 1
        self.bytes[split] += len(text.encode())
        self._write_out(split, text, ref)


def held_out_texts(texts: Sequence[str], fraction: float) -> set[str]:
    """The texts to hold out of these, by the rule of this module; none where each is too long."""
    sizes = {text: len(text.encode()) for text in texts}
    asked_bytes = fraction * sum(sizes[text] for text in texts)
    chosen: set[str] = set()
    held_bytes = 0
    for text in sorted(sizes, key=_hash):
        if held_bytes >= asked_bytes or len(chosen) + 1 == len(sizes):
            break
        if held_bytes + sizes[text] <= _OVERSHOOT * asked_bytes:
            chosen.add(text)
            held_bytes += sizes[text]
    return chosen


def shortest(texts: Sequence[str]) -> set[str]:
    """The shortest of at least two different texts, of equals that with the lowest hash."""
    different = set(texts)
    return {min(different, key=lambda text: (len(text.encode()), _hash(text)))} if len(different) > 1 else set()


def _divided(texts: Sequence[str], fraction: float) -> tuple[int, str, str] | None:
    """The first text by hash that can be cut, and both parts; as much is cut off as is asked for of all texts."""
    asked = fraction * sum(map(len, texts))
    for index in sorted(range(len(texts)), key=lambda i: _hash(texts[i])):
        if (pieces := cut(texts[index], min(asked / len(texts[index]), 0.5))) is not None:
            return index, *pieces
    return None


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")


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

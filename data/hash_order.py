"""Which documents of a source are held out of training.

Documents are taken in the order of their hash until the bytes asked for are reached: `held_out_fraction` of the bytes
of the source's different documents. The order is a property of the texts alone, so it is the same whatever the order of
files or the number of workers, and new text moves only documents next to where the taking ends. One that is longer than
all that is asked for is passed over, so that less than twice that is held out; where that leaves less than half of it,
the smallest of those passed over is taken too, unless more than a quarter of the source would then be held out.

Equal texts count once and stay on one side; what is held out is evaluated once, so further copies of it are left out.

Memory: 32 bytes for each document of one of 64 parts by hash; the parts lie in unnamed files.
"""

from __future__ import annotations

import hashlib
import math
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryFile
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

LARGEST_SHARE = 0.25  # of the source, held out by one document longer than all that is asked for
_PARTS_BITS = 6
_ENTRY = np.dtype([("high", "<u8"), ("low", "<u8"), ("bytes", "<u8"), ("ordinal", "<u8")])


@dataclass(frozen=True)
class Choice:
    """What is held out, as ordinals of documents in the order they were added, ascending.

    `copies` are further copies of `held_out`. `duplicate_*` count every document whose text came before.
    """

    held_out: list[int]
    copies: list[int]
    asked_bytes: int
    duplicate_documents: int
    duplicate_bytes: int


class HashOrder:
    """The documents of a source by the hash of their text, to choose from when all are known.

    Used as a context, which ends with its temporary files in `folder`.
    """

    def __init__(self, folder: Path):
        self._files = [TemporaryFile(dir=folder) for _ in range(1 << _PARTS_BITS)]  # noqa: SIM115
        self.documents = 0

    def __enter__(self) -> HashOrder:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for file in self._files:
            file.close()

    def add(self, text: bytes) -> None:
        """Note the next document, UTF-8."""
        high, low = struct.unpack(">QQ", hashlib.blake2b(text, digest_size=16).digest())
        entry = struct.pack("<QQQQ", high, low, len(text), self.documents)
        self._files[high >> (64 - _PARTS_BITS)].write(entry)
        self.documents += 1

    def choose(self, fraction: float) -> Choice:
        """Hold out `fraction` of the bytes, by the rule at the head of this module."""
        different_bytes = duplicate_documents = duplicate_bytes = 0
        for entries, first_N in self._parts():
            different_bytes += int(entries["bytes"][first_N].sum())
            duplicate_documents += int((~first_N).sum())
            duplicate_bytes += int(entries["bytes"][~first_N].sum())
        asked_bytes = math.ceil(fraction * different_bytes)
        held_out, copies = self._take(asked_bytes, LARGEST_SHARE * different_bytes)
        return Choice(sorted(held_out), sorted(copies), asked_bytes, duplicate_documents, duplicate_bytes)

    def _take(self, asked_bytes: int, largest_bytes: float) -> tuple[list[int], list[int]]:
        """Ordinals of the documents that are held out, and of their further copies."""
        held_out: list[int] = []
        copies: list[int] = []
        taken_bytes, smallest = 0, None
        for text_bytes, ordinal, others in self._different():
            if taken_bytes >= asked_bytes:
                break
            if text_bytes <= asked_bytes:
                held_out.append(ordinal)
                copies += others
                taken_bytes += text_bytes
            elif smallest is None or text_bytes < smallest[0]:
                smallest = text_bytes, ordinal, others
        if smallest is not None and taken_bytes < asked_bytes / 2 and taken_bytes + smallest[0] <= largest_bytes:
            held_out.append(smallest[1])
            copies += smallest[2]
        return held_out, copies

    def _different(self) -> Iterator[tuple[int, int, list[int]]]:
        """(bytes, ordinal, ordinals of its further copies) of each text in the order of the hashes."""
        for entries, first_N in self._parts():
            ordinals, sizes = entries["ordinal"].tolist(), entries["bytes"].tolist()
            for first, end in pairwise([*np.flatnonzero(first_N).tolist(), len(entries)]):
                yield sizes[first], ordinals[first], ordinals[first + 1 : end]

    def _parts(self) -> Iterator[tuple[NDArray, NDArray[np.bool_]]]:
        """The entries of each part, sorted by hash and then ordinal; and which are the first with their text."""
        for file in self._files:
            file.flush()
            file.seek(0)
            entries = np.frombuffer(file.read(), dtype=_ENTRY)
            entries = entries[np.lexsort((entries["ordinal"], entries["low"], entries["high"]))]
            first_N = np.ones(len(entries), dtype=bool)
            first_N[1:] = (entries["high"][1:] != entries["high"][:-1]) | (entries["low"][1:] != entries["low"][:-1])
            yield entries, first_N

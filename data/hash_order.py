"""The documents of a source in the order of their hash, to choose from once all are known.

Memory: 32 bytes for each document of one of 64 parts by hash, whatever the source's size; the parts lie in unnamed
files.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from tempfile import SpooledTemporaryFile

import numpy as np

_PARTS_BITS = 6
_PART_BYTES = 1 << 20  # of a part, until it goes to the disk
_ENTRY = np.dtype([("high", "<u8"), ("low", "<u8"), ("bytes", "<u8"), ("ordinal", "<u8")])


@dataclass(frozen=True, slots=True)
class Different:
    """One text: its UTF-8 bytes, the ordinal of the first document with it, and those of its further copies."""

    text_bytes: int
    ordinal: int
    copies: list[int]


class HashOrder:
    """Iterates over the different texts that were added, by blake2b of their UTF-8; temporary files are in `folder`."""

    def __init__(self, folder: Path):
        self._parts = [SpooledTemporaryFile(_PART_BYTES, dir=str(folder)) for _ in range(1 << _PARTS_BITS)]  # noqa: SIM115
        self.documents = self.text_bytes = 0

    def add(self, text: bytes) -> None:
        """Note the next document; the first has ordinal 0."""
        high, low = struct.unpack(">QQ", hashlib.blake2b(text, digest_size=16).digest())
        part = self._parts[high >> (64 - _PARTS_BITS)]
        part.write(struct.pack("<QQQQ", high, low, len(text), self.documents))
        self.documents += 1
        self.text_bytes += len(text)

    def __iter__(self) -> Iterator[Different]:
        for part in self._parts:
            part.seek(0)
            entries = np.frombuffer(part.read(), dtype=_ENTRY)
            entries = entries[np.lexsort((entries["ordinal"], entries["low"], entries["high"]))]
            new_N = np.ones(len(entries), dtype=bool)
            new_N[1:] = (entries["high"][1:] != entries["high"][:-1]) | (entries["low"][1:] != entries["low"][:-1])
            ordinals, sizes = entries["ordinal"].tolist(), entries["bytes"].tolist()
            for first, end in pairwise([*np.flatnonzero(new_N).tolist(), len(entries)]):
                yield Different(sizes[first], ordinals[first], ordinals[first + 1 : end])

    def close(self) -> None:
        """Forget the documents."""
        for part in self._parts:
            part.close()

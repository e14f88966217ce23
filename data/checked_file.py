"""Arrays in files, read piece by piece; each block of a file is compared at its first touch with what was written.

A block is BLOCK_BYTES of the file, its sum the xxh3 of 64 bits (xxhash). A block once found whole is trusted for as
long as its reader lives. Files are opened for every read, and read and not mapped: one that is cut short while a run
goes on is an error by name and no bus error, and any number of them can be read from.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import xxhash
from numpy.typing import NDArray

BLOCK_BYTES = 1 << 16


def blocks(size_bytes: int) -> int:
    """How many a file of that size has."""
    return -(-size_bytes // BLOCK_BYTES)


def block_sums(path: Path) -> NDArray[np.uint64]:
    """The sum of every block of a file."""
    with open(path, "rb") as file:
        found = [xxhash.xxh3_64_intdigest(block) for block in iter(lambda: file.read(BLOCK_BYTES), b"")]
    return np.array(found, dtype="<u8")


class AlteredError(Exception):
    """Bytes [first, stop) of a file are not there, or not those that were written."""

    def __init__(self, path: Path, first: int, stop: int):
        super().__init__(path, first, stop)
        self.path, self.first, self.stop = path, first, stop


class CheckedFile:
    """`length` values of `dtype` in a file. `sums_N` None, of a file that was written without them, checks nothing but
    that what is asked for is there."""

    def __init__(self, path: Path, dtype: str, length: int, sums_N: NDArray[np.uint64] | None):
        self.path, self.dtype, self._sums_N = path, np.dtype(dtype), sums_N
        self._size_bytes = length * self.dtype.itemsize
        self._whole_N = np.zeros(blocks(self._size_bytes), dtype=bool)

    def values(self, start: int, stop: int) -> NDArray:
        """Those in [start, stop). Raises AlteredError."""
        first, end = start * self.dtype.itemsize, stop * self.dtype.itemsize
        begin, after = first // BLOCK_BYTES, blocks(end)
        low, high = first, end
        unchecked = self._sums_N is not None and not self._whole_N[begin:after].all()
        if unchecked:
            low, high = begin * BLOCK_BYTES, min(after * BLOCK_BYTES, self._size_bytes)
        try:
            descriptor = os.open(self.path, os.O_RDONLY)
        except FileNotFoundError:
            raise AlteredError(self.path, first, end) from None
        try:
            found = memoryview(self._read(descriptor, low, high))
        finally:
            os.close(descriptor)
        if unchecked:
            self._check(found, begin, after)
        return np.frombuffer(found[first - low : end - low], dtype=self.dtype)

    def _check(self, found: memoryview, begin: int, after: int) -> None:
        """Compare blocks [begin, after), of which `found` are the bytes."""
        assert self._sums_N is not None
        for n, block in enumerate(range(begin, after)):
            bytes_of_block = found[n * BLOCK_BYTES : (n + 1) * BLOCK_BYTES]
            if not self._whole_N[block] and xxhash.xxh3_64_intdigest(bytes_of_block) != self._sums_N[block]:
                start = block * BLOCK_BYTES
                raise AlteredError(self.path, start, start + len(bytes_of_block))
        self._whole_N[begin:after] = True

    def _read(self, descriptor: int, first: int, stop: int) -> bytes:
        found = bytearray()
        while len(found) < stop - first:  # one call reads 2 GiB at most
            piece = os.pread(descriptor, stop - first - len(found), first + len(found))
            if not piece:
                raise AlteredError(self.path, first + len(found), stop)
            if len(piece) == stop - first:
                return piece
            found += piece
        return bytes(found)

"""How much of a large intermediate result a kernel holds at once.

What would be too large to hold is made and used up in chunks. Their size changes time and memory, not what is computed
beyond the rounding of sums.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


class ChunkSize:
    """Elements of one kernel's chunks, by the type of device."""

    def __init__(self, *, cpu: int, cuda: int):
        self._elements = {"cpu": cpu, "cuda": cuda}

    def elements(self, device_type: str) -> int:
        """How many are held at once."""
        return self._elements[device_type]

    def rows(self, width: int, device_type: str) -> int:
        """How many rows of `width` elements a chunk has; at least 1."""
        return max(1, self.elements(device_type) // width)

    @contextmanager
    def instead(self, elements: int, device_type: str = "cpu") -> Iterator[None]:
        """Within: that many on this type of device."""
        before, self._elements[device_type] = self._elements[device_type], elements
        try:
            yield
        finally:
            self._elements[device_type] = before

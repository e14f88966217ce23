"""How much of a large intermediate result a kernel holds at once.

What would be too large to hold is made and used up in chunks. Their size changes time and memory, not what is computed
beyond the rounding of sums. All full chunks cost alike, which is how a step is counted without going through each
(models/step_count.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass(frozen=True)
class _Count:
    """A count of a step on another device that goes on; `repeat(n)` tells it what the ops to come stand for."""

    device_type: str
    repeat: Callable[[int], None]


_counts: list[_Count] = []


@contextmanager
def counted_as_on(device_type: str, repeat: Callable[[int], None]) -> Iterator[None]:
    """Within, all chunks are those of that type of device, wherever the tensors are; of more than three chunks the
    first, the second and the last are worked through, and around the second `repeat` hears for how many it stands.

    The first begins with nothing left over from another, the last may be short, and those between them are alike; so
    what is counted is what all would have cost. The numbers computed are wrong.
    """
    _counts.append(_Count(device_type, repeat))
    try:
        yield
    finally:
        _counts.pop()


class ChunkSize:
    """Elements of one kernel's chunks, by the type of device."""

    def __init__(self, *, cpu: int, cuda: int):
        self._elements = {"cpu": cpu, "cuda": cuda}

    def elements(self, device_type: str) -> int:
        """How many are held at once; where there is no storage, as on a GPU."""
        device_type = _counts[-1].device_type if _counts else device_type
        return self._elements["cuda" if device_type == "meta" else device_type]

    def rows(self, width: int, device_type: str) -> int:
        """How many rows of `width` elements a chunk has; at least 1."""
        return max(1, self.elements(device_type) // width)

    def slices(self, length: int, width: int, device_type: str) -> Iterator[slice]:
        """The chunks of `length` rows of `width` elements, in order; all but the last have `rows`."""
        step = self.rows(width, device_type)
        chunks = [slice(start, min(start + step, length)) for start in range(0, length, step)]
        if not _counts or len(chunks) <= 3:
            yield from chunks
            return
        yield chunks[0]
        _counts[-1].repeat(len(chunks) - 2)
        yield chunks[1]
        _counts[-1].repeat(1)
        yield chunks[-1]

    @contextmanager
    def instead(self, elements: int, device_type: str = "cpu") -> Iterator[None]:
        """Within: that many on this type of device."""
        before, self._elements[device_type] = self._elements[device_type], elements
        try:
            yield
        finally:
            self._elements[device_type] = before

"""The past of a layer whose queries see all positions before them."""

from __future__ import annotations

from torch import Tensor

from athanor.kernels.packed_row import PackedRow
from athanor.models.cache import RewindablePast


class KeyValues(RewindablePast):
    """Keys and values of one layer's past positions; room doubles, so appending is O(1) amortised."""

    def __init__(self) -> None:
        self.length = 0
        self._keys: Tensor | None = None
        self._values: Tensor | None = None

    def append(self, k_BTGd: Tensor, v_BTGd: Tensor) -> tuple[Tensor, Tensor]:
        """Store the newest T positions; returns all S positions of both, as views."""
        start, self.length = self.length, self.length + k_BTGd.shape[1]
        self._keys = self._stored(self._keys, k_BTGd, start)
        self._values = self._stored(self._values, v_BTGd, start)
        return self._keys[:, : self.length], self._values[:, : self.length]

    def held(self, start: int, stop: int) -> tuple[Tensor, Tensor]:
        """Keys and values of positions start .. stop-1, all stored before."""
        assert self._keys is not None and self._values is not None and stop <= self.length
        return self._keys[:, start:stop], self._values[:, start:stop]

    def rewind(self, length: int) -> None:
        self.length = length

    def unpack(self, packed: PackedRow) -> None:
        if self.length:
            self._keys, self._values = (packed.rows(x) for x in self.held(0, self.length))
            self.length = packed.longest

    def _stored(self, room: Tensor | None, new: Tensor, start: int) -> Tensor:
        if room is None or room.shape[1] < self.length:
            grown = new.new_empty(new.shape[0], max(self.length, 2 * start), *new.shape[2:])
            if room is not None:
                grown[:, :start] = room[:, :start]
            room = grown
        room[:, start : self.length] = new
        return room

"""What is remembered while decoding: the contract of a layer's past, and the cache that holds those of all layers.

A pass with a cache computes the row's newest T tokens. What later tokens will need of them goes into the `Past` of
every layer, whatever that is for a family: keys and values, a latent, running sums, the last rows of a convolution.

    append / remember   the newest positions' keys and values in, those that their queries attend to out
    unpack              documents that were read as one packed row become rows of their own
    rewind              the newest positions are forgotten, where nothing of older ones was overwritten

Invariant: every tensor of a past can be reached from its attributes, and together they have the bytes that the model's
`cache_bytes_per_token` counts.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from athanor.kernels.packed_row import PackedRow

# Stores keys and values `[B, T, G, d]` of the newest positions; returns all that their queries attend to.
Remember = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


class Past(ABC):
    """What one layer, or one of its parts, remembers of the positions before."""

    @abstractmethod
    def unpack(self, packed: PackedRow) -> None:
        """What is held of one packed row becomes that of a row for each document, padded on the left."""


class RewindablePast(Past):
    """One that can go back."""

    @abstractmethod
    def rewind(self, length: int) -> None:
        """Forget the positions from `length` on."""


@dataclass
class Cache:
    """State of cached decoding: positions seen so far and, per layer, a Past or (lists of) lists of them."""

    rows: int
    layers: list[Any]
    length: int = 0

    def unpack(self, packed: PackedRow) -> None:
        """The documents of the one packed row that is held become rows of their own, padded on the left."""
        for past in _each(self.layers):
            past.unpack(packed)
        self.rows, self.length = len(packed.lengths), packed.longest

    def rewind(self, length: int) -> None:
        """Forget the positions from `length` on; of layers whose pasts are all rewindable."""
        for past in _each(self.layers):
            past.rewind(length)
        self.length = length


def _each(pasts: list[Any]) -> Iterator[Any]:
    """Those in lists of lists."""
    for past in pasts:
        if isinstance(past, list):
            yield from _each(past)
        else:
            yield past

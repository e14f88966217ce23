"""One iteration of the core, as those see it that iterate a model themselves: decoding and probes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from torch import Tensor, nn

from athanor.kernels.attention import Visible
from athanor.models.cache import Remember
from athanor.models.families.huginn.recurrence import Recurrence


@dataclass(frozen=True)
class Piece:
    """The positions a forward pass computes: where the row has them, and what they see."""

    start: int
    length: int
    rope: Tensor
    visible: Visible

    def of_rows(self, rows: int) -> Piece:
        """The same of the first rows alone."""
        visible = self.visible[:rows] if isinstance(self.visible, Tensor) else self.visible
        return replace(self, rope=self.rope[:, :rows], visible=visible)

    def columns(self) -> Iterator[tuple[slice, Piece]]:
        """Each position as a piece of its own."""
        for t in range(self.length):
            visible = self.visible
            if isinstance(visible, Tensor):
                visible = visible[:, :, t : t + 1, : self.start + t + 1]
            yield slice(t, t + 1), Piece(self.start + t, 1, self.rope[:, :, t : t + 1], visible)


class Recurrent(Protocol):
    """A model whose core can be run, and whose state can be read, after any number of iterations."""

    embedding: nn.Embedding

    @property
    def core(self) -> nn.Module: ...

    @property
    def recurrence(self) -> Recurrence: ...

    def read(self, s_BTD: Tensor, piece: Piece, remember: Sequence[Remember] | None = None) -> Tensor: ...

    def final_norm(self, x: Tensor) -> Tensor: ...

    def logits(self, h: Tensor) -> Tensor: ...

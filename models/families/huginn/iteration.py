"""One iteration of the core, as those see it that iterate a model themselves: decoding and probes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from torch import Tensor, nn

from athanor.kernels.attention import prepare
from athanor.kernels.span import Span
from athanor.models.cache import Remember
from athanor.models.families.huginn.recurrence import Recurrence


@dataclass(frozen=True)
class Piece:
    """The positions a forward pass computes: where the row has them, and what they see."""

    start: int
    length: int
    position_BT: Tensor  # within the documents; one row may serve all
    rope: Tensor
    span: Span | None  # prepared, for the blocks that share it

    def of_rows(self, rows: int) -> Piece:
        """The same of the first rows alone."""
        span = _prepared(None if self.span is None else self.span.of_rows(slice(rows)))
        return replace(self, position_BT=self.position_BT[:rows], rope=self.rope[:, :rows], span=span)

    def among(self, row_N: Tensor) -> Piece:
        """The same of some rows."""
        position_BT, rope = self.position_BT, self.rope
        if len(position_BT) > 1:
            position_BT, rope = position_BT.index_select(0, row_N), rope.index_select(1, row_N)
        span = _prepared(None if self.span is None else self.span.of_rows(row_N))
        return replace(self, position_BT=position_BT, rope=rope, span=span)

    def columns(self) -> Iterator[tuple[slice, Piece]]:
        """Each position as a piece of its own."""
        for t in range(self.length):
            span = _prepared(None if self.span is None else self.span.newest_of(t))
            position_B1, rope = self.position_BT[:, t : t + 1], self.rope[:, :, t : t + 1]
            yield slice(t, t + 1), Piece(self.start + t, 1, position_B1, rope, span)


def _prepared(span: Span | None) -> Span | None:
    prepare(span)
    return span


class Recurrent(Protocol):
    """A model whose core can be run, and whose state can be read, after any number of iterations."""

    embedding: nn.Embedding

    @property
    def core(self) -> nn.Module: ...

    @property
    def recurrence(self) -> Recurrence: ...

    def iterate(
        self,
        s_BTD: Tensor,
        e_BTD: Tensor,
        piece: Piece,
        step: int,
        remember: Callable[..., tuple[Tensor, Tensor]] | None = None,
    ) -> Tensor: ...

    def read(self, s_BTD: Tensor, piece: Piece, remember: Sequence[Remember] | None = None) -> Tensor: ...

    def final_norm(self, x: Tensor) -> Tensor: ...

    def logits(self, h: Tensor) -> Tensor: ...

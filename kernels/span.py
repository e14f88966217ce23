"""Which keys the queries of one forward pass see, said by bounds: documents, a window, sinks.

    key j is visible to the query at row position i iff
    doc_start[i] <= j <= i   and   (i - j < window  or  j - doc_start[i] < sink)

`window` counts the query's own position; the `sink` first tokens are those of the document, not of the row. A position
always sees itself, so no row of a softmax is empty. Padding on the left is a document of its own.
A `Span` is made once a forward pass and shared by its layers, and so is what a kernel makes of it, a mask or the like:
once, when it is first asked for. Where a kernel takes `Span | None`, None means one thing: the queries are
the newest of the keys, causal, in one document.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import torch
from torch import Tensor

from athanor.kernels.packed_row import PackedRow

Made = TypeVar("Made")


def in_window(query: Tensor, key: Tensor, doc_start: Tensor, window: int | None, sink: int) -> Tensor:
    """Whether row position `key` is visible to `query`, whose document starts at `doc_start`; int64, broadcast."""
    in_document = (key >= doc_start) & (key <= query)
    if window is None:
        return in_document
    return in_document & ((query - key < window) | (key - doc_start < sink))


def causal_mask(queries: int, keys: int, device: torch.device) -> Tensor:
    """bool `[1, 1, T, S]`: the last T of S positions, each seeing itself and what precedes it."""
    return torch.ones(queries, keys, dtype=torch.bool, device=device).tril(keys - queries)[None, None]


@dataclass(frozen=True, eq=False)
class Span:
    """The T queries at row positions offset, offset + 1, ..., the S keys at 0, 1, ..., offset + T - 1, unless
    `query_BT` and `key_BS` say where they stand. All tensors int64, of B rows or one that serves all."""

    doc_start_BT: Tensor  # row position at which each query's document begins
    offset: int = 0
    window: int | None = None
    sink: int = 0
    packed: PackedRow | None = None  # a whole row whose documents are attended to one by one
    query_BT: Tensor | None = None
    key_BS: Tensor | None = None  # negative where there is no key
    among_BTS: Tensor | None = None  # an arbitrary mask on top of the bounds, for a look-up that has no bounds
    _made: dict[Callable[[Span], Any], Any] = field(default_factory=dict, init=False, repr=False)

    @property
    def queries(self) -> int:
        """T."""
        return self.doc_start_BT.shape[1]

    @property
    def whole_rows(self) -> bool:
        """Whether queries and keys are those of whole rows, and bounds say all."""
        return self.offset == 0 and self.query_BT is None and self.key_BS is None and self.among_BTS is None

    def once(self, make: Callable[[Span], Made]) -> Made:
        """`make(self)`, which is made for all layers."""
        if make not in self._made:
            self._made[make] = make(self)
        return self._made[make]

    @property
    def mask(self) -> Tensor:
        """bool `[B or 1, 1, T, S]`."""
        return self.once(Span._mask)

    def _mask(self) -> Tensor:
        device = self.doc_start_BT.device
        key_BS = torch.arange(self.offset + self.queries, device=device)[None] if self.key_BS is None else self.key_BS
        query_BT = self.query_BT
        if query_BT is None:
            query_BT = torch.arange(self.offset, self.offset + self.queries, device=device)[None]
        starts = self.doc_start_BT[:, :, None]
        visible_BTS = in_window(query_BT[:, :, None], key_BS[:, None], starts, self.window, self.sink)
        return (visible_BTS if self.among_BTS is None else visible_BTS & self.among_BTS)[:, None]

    def of_rows(self, rows: slice | Tensor) -> Span:
        """The same of some rows of the batch, by a slice or int64 indices."""
        named = ("doc_start_BT", "query_BT", "key_BS", "among_BTS")
        found = {name: x for name in named if (x := getattr(self, name)) is not None and len(x) > 1}
        return replace(self, **{name: x[rows] for name, x in found.items()})

    def newest_of(self, t: int) -> Span:
        """That of query t alone, which sees no key behind it; of bounds alone."""
        return Span(self.doc_start_BT[:, t : t + 1], self.offset + t, self.window, self.sink)


def visible_keys(span: Span | None, queries: int, keys: int, device: torch.device) -> Tensor | None:
    """The mask `bool [B or 1, 1, T, S]`. None stands for what needs none: a whole row that is one document, or a single
    newest query of one."""
    if span is not None:
        return span.mask
    return causal_mask(queries, keys, device) if 1 < queries < keys else None

"""A forward pass within a sliding window with document sinks, and the past of a layer that attends within one.

That past has a fixed number of slots: one for each of the newest document's `sink` first tokens, and a ring of
`window` in which the row's newest positions overwrite the oldest. Keys are stored rotated at their row position, so
overwriting one leaves the others valid. Which position lies in which slot is known from the pass's offset and
document starts alone: what queries see and the slots are worked out once a forward pass, in `Window`, for all layers.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from athanor.kernels.attention import prepare
from athanor.kernels.packed_row import PackedRow
from athanor.kernels.span import Span
from athanor.models.cache import Past, Remember
from athanor.models.skeleton import Context


@dataclass(frozen=True)
class Slots:
    """Where a pass's T newest keys go."""

    ring_t: Tensor  # slots of the last min(T, window) of them
    source_Bs: Tensor  # for each sink slot, which of the T keys it takes
    arrived_Bs: Tensor  # and whether it is among them
    packed: PackedRow | None  # the keys come as one packed row, and go as the rows it becomes


@dataclass(frozen=True)
class Window:
    """What the queries of one forward pass see, and where their keys are kept."""

    span: Span
    slots: Slots | None

    @classmethod
    def of(cls, context: Context, window: int, sink: int) -> Window:
        """That of a forward pass."""
        doc_start_BT, offset = context.doc_start_BT, context.offset
        if doc_start_BT is None:
            doc_start_BT = torch.zeros_like(context.position_BT)
        ring_BS = None if offset == 0 else _ring(doc_start_BT, offset, window, sink)
        span = Span(doc_start_BT, offset, window, sink, key_BS=ring_BS)
        prepare(span)
        return cls(span, None if context.cache is None else _slots(doc_start_BT, context, window, sink))

    def remember(self, past: WindowKeyValues | None) -> Remember | None:
        """How the pass's keys and values go into a past; None into none."""
        return None if past is None or self.slots is None else partial(past.append, self.slots)


def _ring(doc_start_BT: Tensor, offset: int, window: int, sink: int) -> Tensor:
    """int64 `[B or 1, S]`: row positions of what `WindowKeyValues.append` returns behind a past of `offset` tokens."""
    rows, length = doc_start_BT.shape
    device = doc_start_BT.device
    newest = offset if length == 1 else offset - 1  # a single key is stored before it is attended to
    ring_W = newest - (newest - torch.arange(window, device=device)) % window
    sinks_Bs = doc_start_BT[:, :1] + torch.arange(sink, device=device)
    hidden = -1  # a sink that has not arrived, or is still in the ring
    parts = [torch.where(sinks_Bs <= newest - window, sinks_Bs, hidden), ring_W.expand(rows, -1)]
    if length > 1:
        parts.append(torch.arange(offset, offset + length, device=device).expand(rows, -1))
    return torch.cat(parts, dim=1)


def _slots(doc_start_BT: Tensor, context: Context, window: int, sink: int) -> Slots:
    length, device, offset, packed = doc_start_BT.shape[1], doc_start_BT.device, context.offset, context.packed
    if packed is not None:
        length, doc_start_BT = packed.longest, packed.padding(device)
    newest_t = torch.arange(offset + max(0, length - window), offset + length, device=device)
    source_Bs = doc_start_BT[:, -1:] + torch.arange(sink, device=device) - offset
    arrived_Bs = (source_Bs >= 0) & (source_Bs < length)
    return Slots(sink + newest_t % window, source_Bs.clamp(0, length - 1), arrived_Bs, packed)


class WindowKeyValues(Past):
    """Keys and values of one layer's sinks and window, whatever the length of the past."""

    def __init__(self, window: int, sink: int):
        self._window, self._sink = window, sink
        self._keys: Tensor | None = None
        self._values: Tensor | None = None

    def append(self, slots: Slots, k_BTGd: Tensor, v_BTGd: Tensor) -> tuple[Tensor, Tensor]:
        """Store the newest T positions; returns what their queries attend to: the first piece of a row as it is, a
        single position's slots, or the slots as they were and the new positions behind them."""
        keys, self._keys = self._stored(self._keys, k_BTGd, slots)
        values, self._values = self._stored(self._values, v_BTGd, slots)
        return keys, values

    def unpack(self, packed: PackedRow) -> None:
        """Nothing is left to do: `append` keeps the newest of each document."""

    def _stored(self, room: Tensor | None, new: Tensor, slots: Slots) -> tuple[Tensor, Tensor]:
        if room is None:
            attended = new
            new = new if slots.packed is None else slots.packed.rows(new)
            room = new.new_zeros(new.shape[0], self._sink + self._window, *new.shape[2:])
        else:
            attended = room if new.shape[1] == 1 else torch.cat((room, new), dim=1)
        row_B1 = torch.arange(len(new), device=new.device)[:, None]
        arrived = slots.arrived_Bs[..., None, None]
        room[:, : self._sink] = torch.where(arrived, new[row_B1, slots.source_Bs], room[:, : self._sink])
        room[:, slots.ring_t] = new[:, -len(slots.ring_t) :]
        return attended, room


def keys_seen(context_tokens: float, most: int) -> float:
    """Keys a query sees on average, itself included, of which it sees at most `most`, in rows where `context_tokens`
    keys precede or are the query on average."""
    row_tokens = 2.0 * context_tokens - 1.0
    return context_tokens if row_tokens <= most else most - most * (most - 1) / (2.0 * row_tokens)

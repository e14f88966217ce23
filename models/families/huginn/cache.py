"""Keys and values of a recurrent core while decoding: one slot per (step, layer), and which of them are looked at.

Every iteration of every position has keys and values of its own. A position that stopped after fewer steps than a
later one takes has none of the later steps; and a cache may keep fewer slots than steps. The look-up says what
happens, with C layers in the core and i = C * step + layer:

    full             slot i; positions that stopped before are not seen at all (`skip` is the same)
    latest           slot i; a position that stopped before shows its last step (`available` is the same: a
                     position's slots have no gaps)
    randomized       slot i; where a position of the document stopped before, every one of them shows some step that it
                     took up to now, by chance: a control, of what looking at the right step is worth
    always-last      one slot a layer: every past position shows its last step, also if it went deeper than this one
    compress-sN      slot i mod N: the last N / C steps of a position, N a multiple of C
    compress-rN      slot i // N: N consecutive layer-steps share one, the last of them wins
    compress-anchor  the first 8 steps have their slots, all later ones share one

Slots that several steps share hold what a position's *last* such step left. So that decoding does not depend on how
the tokens come in pieces, positions are then decoded one after the other, and so are they with `randomized`, where
each draws for itself: by the step, the layer and both positions within the document. With `full` and `latest` all
positions of a piece go through a step together.
"""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from athanor.core.errors import UserError
from athanor.kernels.attention import prepare
from athanor.kernels.noise import keys_at, uniform
from athanor.kernels.packed_row import PackedRow
from athanor.kernels.span import Span
from athanor.models.blocks.key_values import KeyValues
from athanor.models.cache import RewindablePast
from athanor.models.families.huginn.exit_criteria import ExitRule
from athanor.models.families.huginn.iteration import Piece

_ANCHOR_STEPS = 8
_SHARED = re.compile(r"compress-([sr])([1-9]\d*)")
_NAMES = ("full", "skip", "latest", "available", "randomized", "always-last", "compress-anchor")


@dataclass(frozen=True)
class Lookup:
    """A look-up by name, for a core of `core_layers` layers. UserError for a name that does not exist."""

    name: str
    core_layers: int

    def __post_init__(self) -> None:
        shared = _SHARED.fullmatch(self.name)
        if shared is None and self.name not in _NAMES:
            raise UserError(
                f"cache look-up {self.name!r} does not exist: {', '.join(_NAMES)}, compress-sN, compress-rN"
            )
        if shared is not None and shared[1] == "s" and int(shared[2]) % self.core_layers:
            raise UserError(
                f"cache look-up {self.name}: its number must be a multiple of {self.core_layers} core layers"
            )

    @property
    def together(self) -> bool:
        """Whether positions of a piece see the same of one another that they would one after the other: no two steps
        share a slot, and nothing is drawn for one position."""
        return self.name in ("full", "skip", "latest", "available")

    @property
    def hides(self) -> bool:
        """Whether positions that stopped before a step are not seen at it."""
        return self.name in ("full", "skip")

    def slot(self, step: int, layer: int) -> int:
        """Where a step of a layer keeps its keys and values."""
        index = step * self.core_layers + layer
        if (shared := _SHARED.fullmatch(self.name)) is not None:
            return index % int(shared[2]) if shared[1] == "s" else index // int(shared[2])
        if self.name == "always-last":
            return layer
        if self.name == "compress-anchor":
            return min(step, _ANCHOR_STEPS) * self.core_layers + layer
        return index


def store(past: KeyValues, start: int, active_BT: Tensor | None, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """Write positions start .. start+T-1 of `past` and return all it holds; where `active_BT` is False and something
    is there already, that stays."""
    if active_BT is not None and past.length > start:
        old_k, old_v = past.held(start, past.length)
        keep = ~active_BT[:, :, None, None]
        k, v = torch.where(keep, old_k, k), torch.where(keep, old_v, v)
    past.rewind(start)
    return past.append(k, v)


class CoreCache(RewindablePast):
    """What the core remembers: its slots, how many steps each position took, the newest position's state; and how it
    decodes."""

    def __init__(self, lookup: Lookup, exit: ExitRule | None, continuous: bool):
        self.lookup, self.exit, self.continuous = lookup, exit, continuous
        self.slots: defaultdict[int, KeyValues] = defaultdict(KeyValues)
        self.depth_BS: Tensor | None = None
        self.state_B1D: Tensor | None = None

    @property
    def together(self) -> bool:
        """Whether the positions of a piece can go through a step together: a later one must see no more of an
        earlier one than is there by then, and the coda's reading at a check is final only for those that stop."""
        return self.lookup.together and (self.exit is None or not self.exit.reads_logits)

    @property
    def masks(self) -> bool:
        """Whether its pieces need a mask, for what a position sees depends on its depth or is cut off at itself."""
        return self.lookup.hides or not self.together

    def enter(self, step: int, start: int, active_BT: Tensor) -> None:
        """Positions start .. start+T-1 begin a step (counted from 0), those where `active_BT` is True."""
        fresh_BT = torch.zeros_like(active_BT, dtype=torch.int64)
        past_BS = fresh_BT[:, :0] if self.depth_BS is None else self.depth_BS[:, :start]
        now_BT = (
            fresh_BT if step == 0 or self.depth_BS is None else self.depth_BS[:, start : start + active_BT.shape[1]]
        )
        self.depth_BS = torch.cat((past_BS, torch.where(active_BT, step + 1, now_BT)), dim=1)

    def remember(
        self, step: int, piece: Piece, active_BT: Tensor | None, layer: int, k: Tensor, v: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Store keys and values of a piece's positions; returns those this step and layer look at.

        A position that never wrote the slot has there what it shows instead: a copy of its step before.
        """
        past = self._filled(step, layer, piece.start if active_BT is None else piece.start + piece.length)
        seen = store(past, piece.start, active_BT, k, v)
        return self._shuffled(step, layer, piece, *seen) if self.lookup.name == "randomized" and step > 0 else seen

    def _shuffled(self, step: int, layer: int, piece: Piece, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """What the one position of a piece sees at a step before which positions of its document may have stopped."""
        assert self.depth_BS is not None
        length, index_S = k.shape[1], torch.arange(k.shape[1], device=k.device)
        position_BS = index_S - (piece.start - piece.position_BT)
        taken_BS = self.depth_BS[:, :length].clamp(max=step + 1)
        stopped_B1 = ((taken_BS <= step) & (position_BS >= 0)).any(1, keepdim=True)
        pair_BS = keys_at(keys_at(position_BS.new_zeros(1, 1), piece.position_BT), position_BS).expand_as(taken_BS)
        chance_BS = uniform(pair_BS.flatten(), self.lookup.slot(step, layer), 1).view_as(pair_BS)
        shown_BS = torch.where(stopped_B1, (chance_BS * taken_BS).long(), step)
        steps = (self.slots[self.lookup.slot(past, layer)].held(0, length) for past in range(step + 1))
        row_B1 = torch.arange(len(k), device=k.device)[:, None]
        shown_k, shown_v = (torch.stack(of_steps)[shown_BS, row_B1, index_S] for of_steps in zip(*steps, strict=True))
        return shown_k, shown_v

    def _filled(self, step: int, layer: int, length: int) -> KeyValues:
        """A slot, with something of each of the first positions, except at the first step."""
        past = self.slots[self.lookup.slot(step, layer)]
        if step > 0 and past.length < length:
            past.append(*self.slots[self.lookup.slot(step - 1, layer)].held(past.length, length))
        return past

    def span(self, span: Span | None, step: int, piece: Piece) -> Span | None:
        """What of a piece's span, which is not packed if it `masks`, is left at a step that has been entered."""
        if not self.lookup.hides or self.depth_BS is None:
            return span
        key_S = torch.arange(piece.start + piece.length, device=self.depth_BS.device)
        present_BTS = (self.depth_BS > step)[:, None] | (key_S == key_S[piece.start :, None])
        bounds = Span(torch.zeros_like(key_S[None, piece.start :]), piece.start) if span is None else span
        left = replace(bounds, among_BTS=present_BTS)
        prepare(left)
        return left

    def unpack(self, packed: PackedRow) -> None:
        """The documents of the packed row that is held become rows of their own, in slots of one length."""
        assert self.depth_BS is not None
        for index in range(int(self.depth_BS.max()) * self.lookup.core_layers):
            self._filled(*divmod(index, self.lookup.core_layers), self.depth_BS.shape[1])
        for past in self.slots.values():
            past.unpack(packed)
        self.depth_BS = packed.rows(self.depth_BS)

    def rewind(self, length: int) -> None:
        """Forget the positions from `length` on."""
        for past in self.slots.values():
            past.rewind(min(length, past.length))
        self.depth_BS = None if self.depth_BS is None else self.depth_BS[:, :length]
        self.state_B1D = None

"""Keys and values of a recurrent core while decoding: one slot per (step, layer), and which of them are looked at.

Every iteration of every position has keys and values of its own. A position that stopped after fewer steps than a
later one takes has none of the later steps; and a cache may keep fewer slots than steps. The look-up says what
happens, with C layers in the core and i = C * step + layer:

    full             slot i; positions that stopped before are not seen at all
    latest           slot i; a position that stopped before shows its last step (`available` is the same: a
                     position's slots have no gaps)
    always-last      one slot a layer: every past position shows its last step, also if it went deeper than this one
    compress-sN      slot i mod N: the last N / C steps of a position, N a multiple of C
    compress-rN      slot i // N: N consecutive layer-steps share one, the last of them wins
    compress-anchor  the first 8 steps have their slots, all later ones share one

Slots that several steps share hold what a position's *last* such step left. So that decoding does not depend on how
the tokens come in pieces, positions are then decoded one after the other; with `full` and `latest` all positions
of a piece go through a step together.
"""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass

import torch
from torch import Tensor

from athanor.core.errors import UserError
from athanor.kernels.attention import Visible
from athanor.kernels.packed_row import PackedRow
from athanor.models.blocks.key_values import KeyValues
from athanor.models.cache import RewindablePast
from athanor.models.families.huginn.exit_criteria import ExitRule

_ANCHOR_STEPS = 8
_SHARED = re.compile(r"compress-([sr])([1-9]\d*)")
_NAMES = ("full", "latest", "available", "always-last", "compress-anchor")


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
    def one_slot_per_step(self) -> bool:
        """Whether no two steps ever share a slot."""
        return self.name in ("full", "latest", "available")

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
        return self.lookup.one_slot_per_step and (self.exit is None or not self.exit.reads_logits)

    @property
    def masks(self) -> bool:
        """Whether its pieces need a mask, for what a position sees depends on its depth or is cut off at itself."""
        return self.lookup.name == "full" or not self.together

    def enter(self, step: int, start: int, active_BT: Tensor) -> None:
        """Positions start .. start+T-1 begin a step (counted from 0), those where `active_BT` is True."""
        fresh_BT = torch.zeros_like(active_BT, dtype=torch.int64)
        past_BS = fresh_BT[:, :0] if self.depth_BS is None else self.depth_BS[:, :start]
        now_BT = (
            fresh_BT if step == 0 or self.depth_BS is None else self.depth_BS[:, start : start + active_BT.shape[1]]
        )
        self.depth_BS = torch.cat((past_BS, torch.where(active_BT, step + 1, now_BT)), dim=1)

    def remember(
        self, step: int, start: int, active_BT: Tensor | None, layer: int, k: Tensor, v: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Store keys and values of positions start .. start+T-1; returns those this step and layer look at.

        A position that never wrote the slot has there what it shows instead: a copy of its step before.
        """
        past = self._filled(step, layer, start if active_BT is None else start + k.shape[1])
        return store(past, start, active_BT, k, v)

    def _filled(self, step: int, layer: int, length: int) -> KeyValues:
        """A slot, with something of each of the first positions, except at the first step."""
        past = self.slots[self.lookup.slot(step, layer)]
        if step > 0 and past.length < length:
            past.append(*self.slots[self.lookup.slot(step - 1, layer)].held(past.length, length))
        return past

    def visible(self, visible: Visible, step: int, start: int, length: int) -> Visible:
        """What of `visible`, where it is needed a mask, is left at a step that has been entered."""
        if isinstance(visible, PackedRow) or self.lookup.name != "full" or self.depth_BS is None:
            return visible
        key_S = torch.arange(start + length, device=self.depth_BS.device)
        query_T1 = key_S[start:, None]
        present = (self.depth_BS > step)[:, None, None, :] | (key_S == query_T1)
        return present & (visible if visible is not None else key_S <= query_T1)

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

"""Cached decoding of a recurrent model: every position iterates until its exit, and all caches go with it.

A piece of positions goes through each step together where the cache allows it, else one position after the other. A
position that stopped keeps its state, and so do its caches, while others of the batch go on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from athanor.kernels.packed_row import newest
from athanor.models.blocks.key_values import KeyValues
from athanor.models.families.huginn.cache import CoreCache, Lookup, store
from athanor.models.families.huginn.exit_criteria import ExitRule, Watch
from athanor.models.families.huginn.iteration import Piece, Recurrent
from athanor.models.skeleton import Context


@dataclass(frozen=True)
class DepthPolicy:
    """How cached decoding iterates: when a position stops (none: after all its steps), what later ones look up of
    it, and whether a newest token starts from the state of the one before it and not from noise."""

    exit: ExitRule | None = None
    lookup: str = "latest"
    continuous: bool = False

    def new_cache(self, core_layers: int) -> CoreCache:
        """What a core of that many layers remembers, empty. UserError for a look-up that does not exist."""
        return CoreCache(Lookup(self.lookup, core_layers), self.exit, self.continuous)


def decode(
    model: Recurrent,
    s_BTD: Tensor,
    e_BTD: Tensor,
    piece: Piece,
    context: Context,
    core: CoreCache,
    coda: Sequence[KeyValues],
) -> Tensor:
    """The coda's output for new positions, from their initial states and embeddings; `core` and `coda` take them in."""
    if core.continuous and piece.length == 1 and core.state_B1D is not None:
        s_BTD = torch.where((context.position_BT > 0)[:, :, None], core.state_B1D, s_BTD)
    pieces = [(slice(None), piece)] if core.together or piece.length == 1 else list(piece.columns())
    decoded = [_decode_piece(model, s_BTD[:, cut], e_BTD[:, cut], one, core, coda) for cut, one in pieces]
    s_BTD, read_BTD = (torch.cat(parts, dim=1) for parts in zip(*decoded, strict=True))
    core.state_B1D = newest(s_BTD, 1, context.packed)
    return read_BTD


def _decode_piece(
    model: Recurrent, s_BTD: Tensor, e_BTD: Tensor, piece: Piece, core: CoreCache, coda: Sequence[KeyValues]
) -> tuple[Tensor, Tensor]:
    """The final states, and what the coda makes of them."""
    watch = None if core.exit is None else Watch(core.exit, s_BTD, model.embedding.num_embeddings)
    running_BT = torch.ones(s_BTD.shape[:2], dtype=torch.bool, device=s_BTD.device)
    read_BTD: Tensor | None = None
    steps = model.recurrence.steps
    for step in range(steps):
        done = step + 1
        core.enter(step, piece.start, running_BT)
        seen = replace(piece, span=core.span(piece.span, step, piece))
        remember = partial(core.remember, step, piece, None if watch is None else running_BT)
        s_BTD = torch.where(running_BT[:, :, None], model.iterate(s_BTD, e_BTD, seen, step, remember), s_BTD)
        if watch is None or not watch.looks(done) or watch.next_check(done) >= steps:
            continue
        newest = s_BTD
        if watch.rule.reads_logits:
            read_BTD = _read_cached(model, s_BTD, piece, coda)
            newest = model.logits(model.final_norm(read_BTD))
        stops_BT = watch.stops(newest)
        if done == watch.next_check(done):
            running_BT = running_BT & ~stops_BT
        if not running_BT.any():
            break
    if read_BTD is None or running_BT.any():
        read_BTD = _read_cached(model, s_BTD, piece, coda)
    return s_BTD, read_BTD


def _read_cached(model: Recurrent, s_BTD: Tensor, piece: Piece, coda: Sequence[KeyValues]) -> Tensor:
    """What the coda makes of a state, its keys and values in place of those of an earlier check; of a state that
    stopped, the same."""
    return model.read(s_BTD, piece, [partial(store, past, piece.start, None) for past in coda])

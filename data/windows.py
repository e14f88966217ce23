"""The windows of a source: which of them its n-th sample is, and their tokens as rows.

A *window* is a span of a source's stream as long as a row; windows do not overlap and the last, partial one is
dropped. The longest windows are read in an order that is permuted afresh in each epoch. A phase of shorter rows reads
the parts of the next of them: n rows take the ceil(n / parts) longest windows that follow those of the phase before,
and the parts of those that belong to one epoch are permuted together, so that neighbours do not meet in a batch.

Invariants: in an epoch no token is read twice, whatever the phases, and every longest window is read once, but for
what a change-over leaves: fewer than `parts` parts, less than one longest window per source and phase.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from athanor.core.errors import UserError
from athanor.core.targets import IGNORE
from athanor.data.permutation import hash64, name_key, permute
from athanor.data.phases import Phase
from athanor.data.shards import TokenShards

_EPOCH_KEY = name_key("windows of an epoch")
_PART_KEY = name_key("parts of the windows of a phase")


class Windows:
    """The windows of one length in one split; raises UserError if there is none."""

    def __init__(self, shards: TokenShards, seq_len_tokens: int):
        self.shards, self.seq_len_tokens = shards, seq_len_tokens
        self._count = (shards.total_tokens - 1) // seq_len_tokens
        if self._count < 1:
            raise UserError(
                f"source {shards.source!r}: {shards.total_tokens} tokens in {shards.folder.name}, but one window "
                f"needs {seq_len_tokens + 1}; give it more text or lower seq_len_tokens"
            )

    def __len__(self) -> int:
        return self._count

    def span(self, window: int) -> tuple[int, int]:
        """Tokens [start, stop) of a window in the source's stream."""
        return window * self.seq_len_tokens, (window + 1) * self.seq_len_tokens

    def assemble(self, windows: NDArray[np.int64]) -> tuple[NDArray, NDArray, NDArray]:
        """(ids_BT, targets_BT, doc_start_BT), int64, of the given windows."""
        length = self.seq_len_tokens
        tokens_BT1 = np.empty((len(windows), length + 1), dtype=np.int64)
        begins_BT1 = np.zeros((len(windows), length + 1), dtype=np.int64)  # t where a document begins at t, else 0
        for b, start in enumerate((windows * length).tolist()):
            tokens_BT1[b] = self.shards.tokens(start, start + length + 1)
            begins = self.shards.document_starts(start, start + length + 1) - start
            begins_BT1[b, begins] = begins
        targets_BT = np.where(begins_BT1[:, 1:] > 0, IGNORE, tokens_BT1[:, 1:])
        doc_start_BT = np.maximum.accumulate(begins_BT1[:, :-1], axis=1)
        return tokens_BT1[:, :-1].copy(), targets_BT, doc_start_BT


class WindowOrder:
    """The order of a source's windows, as a pure function of its name, the seed and the phases.

    `longest_windows` are the source's windows of the last phase's length; `rows_P` the rows it gives to each phase.
    """

    def __init__(self, source: str, seed: int, longest_windows: int, phases: Sequence[Phase], rows_P: Sequence[int]):
        self._key, self._seed, self._count = name_key(source), seed, longest_windows
        self._parts_P = [phases[-1].seq_len_tokens // phase.seq_len_tokens for phase in phases]
        taken_P = [-(-rows // parts) for rows, parts in zip(rows_P, self._parts_P, strict=True)]
        self._first_P = np.cumsum([0, *taken_P]).tolist()  # longest windows read before each phase, all epochs

    def place(self, phase: int, ordinal_B: NDArray[np.int64]) -> tuple[NDArray, NDArray]:
        """(epoch, window of the phase's length) of the phase's samples with these ordinals."""
        parts = self._parts_P[phase]
        taken_B, part_B = np.divmod(self._spread(phase, ordinal_B) if parts > 1 else ordinal_B, parts)
        epoch_B, longest_B = shuffled(self._first_P[phase] + taken_B, self._count, self._seed, self._key)
        return epoch_B, longest_B * parts + part_B

    def _spread(self, phase: int, ordinal_B: NDArray[np.int64]) -> NDArray[np.int64]:
        """The parts the samples read, counted from the phase's first: permuted among those of their epoch."""
        parts, first, stop = self._parts_P[phase], self._first_P[phase], self._first_P[phase + 1]
        epoch_B = (first + ordinal_B // parts) // self._count
        part_B = np.empty_like(ordinal_B)
        for epoch in np.unique(epoch_B).tolist():
            low = max(first, epoch * self._count) - first
            high = min(stop, (epoch + 1) * self._count) - first
            rows = epoch_B == epoch
            key = hash64(self._seed, _PART_KEY, self._key, phase, epoch)
            part_B[rows] = low * parts + permute(ordinal_B[rows] - low * parts, (high - low) * parts, key)
        return part_B


def shuffled(ordinal_B: NDArray[np.int64], n: int, seed: int, stream_key: int) -> tuple[NDArray, NDArray]:
    """(epoch, place) of the given samples of a stream of n places, permuted afresh in each epoch."""
    epoch_B, within_B = np.divmod(ordinal_B, n)
    return epoch_B, permute(within_B, n, hash64(seed, _EPOCH_KEY, stream_key, epoch_B))

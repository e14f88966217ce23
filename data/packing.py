"""Packing of whole conversations into rows, each conversation contiguous and a document of its own.

`pack` is best-fit decreasing within chunks of conversations, which the seed shuffles; it fills rows to a few per cent
and does not depend on anything but lengths, capacity and seed. What is left of a row is EOS, as a document of its own
that nothing learns from.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from athanor.core.errors import UserError
from athanor.core.targets import IGNORE
from athanor.data.permutation import hash64, name_key, permute
from athanor.data.shards import TokenShards

_CHUNK_CONVERSATIONS = 1024
_PACK_KEY = name_key("packing")


def pack(lengths_N: NDArray[np.int64], capacity: int, seed: int) -> list[list[int]]:
    """Rows of indices into `lengths_N`, every index once, lengths in a row summing to at most `capacity`.

    Raises ValueError if a length exceeds the capacity.
    """
    if lengths_N.size and lengths_N.max() > capacity:
        raise ValueError(f"a length of {lengths_N.max()} does not fit a row of {capacity}")
    rows: list[list[int]] = []
    if not lengths_N.size:
        return rows
    order_N = permute(np.arange(len(lengths_N)), len(lengths_N), hash64(seed, _PACK_KEY))
    for first in range(0, len(order_N), _CHUNK_CONVERSATIONS):
        chunk = order_N[first : first + _CHUNK_CONVERSATIONS]
        chunk = chunk[np.argsort(-lengths_N[chunk], kind="stable")]
        free: list[tuple[int, int]] = []  # (tokens left, row), ascending: the first that fits is the best fit
        for index, length in zip(chunk.tolist(), lengths_N[chunk].tolist(), strict=True):
            best = bisect_left(free, (length, 0))
            left, row = free.pop(best) if best < len(free) else (capacity, len(rows))
            if row == len(rows):
                rows.append([])
            rows[row].append(index)
            insort(free, (left - length, row))
    return rows


@dataclass(frozen=True)
class RowFit:
    """What of a split's conversations fits rows of `seq_len_tokens`, and what training loses of them.

    A conversation longer than a row is cut at the row's end (`truncated`); if nothing that is to be learned is left of
    it, it is left out (`dropped`). Assistant tokens are those that the mask marks as learned.
    """

    seq_len_tokens: int
    conversations: int
    truncated: int
    dropped: int
    longest_tokens: int
    assistant_tokens: int
    lost_assistant_tokens: int

    @property
    def lost_fraction(self) -> float:
        """Share of the assistant tokens that no row holds."""
        return self.lost_assistant_tokens / max(1, self.assistant_tokens)

    def facts(self) -> dict[str, int]:
        """For an artifact's manifest."""
        return {
            "conversations": self.conversations,
            "truncated_conversations": self.truncated,
            "dropped_conversations": self.dropped,
            "assistant_tokens": self.assistant_tokens,
            "lost_assistant_tokens": self.lost_assistant_tokens,
        }

    def __str__(self) -> str:
        rows = f"rows of {self.seq_len_tokens:,} tokens"
        if not self.truncated and not self.dropped:
            return f"all {self.conversations:,} conversations fit {rows}"
        return (
            f"{rows} cut {self.truncated:,} and drop {self.dropped:,} of {self.conversations:,} conversations, the "
            f"longest of {self.longest_tokens:,} tokens: {self.lost_assistant_tokens:,} of {self.assistant_tokens:,} "
            f"assistant tokens are lost ({self.lost_fraction:.1%})"
        )


def fit_rows(shards: TokenShards, seq_len_tokens: int) -> tuple[NDArray[np.int64], NDArray[np.int64], RowFit]:
    """Starts and lengths of the conversations of masked shards as rows will hold them, without the dropped; and what
    that loses."""
    starts_N = shards.document_starts(0, shards.total_tokens)
    full_N = np.diff(starts_N, append=shards.total_tokens)
    cut_N = np.flatnonzero(full_N > seq_len_tokens)
    dropped, lost_tokens = [], 0
    for index in cut_N.tolist():
        start = int(starts_N[index])
        learned_T = shards.mask(start, start + int(full_N[index]))
        if not learned_T[1:seq_len_tokens].any():  # a row's first token is no target
            dropped.append(index)
        lost_tokens += int(learned_T[seq_len_tokens:].sum(dtype=np.int64))
    kept_N = np.setdiff1d(np.arange(len(starts_N)), dropped)
    fit = RowFit(
        seq_len_tokens=seq_len_tokens,
        conversations=len(starts_N),
        truncated=len(cut_N) - len(dropped),
        dropped=len(dropped),
        longest_tokens=int(full_N.max(initial=0)),
        assistant_tokens=int(shards.mask(0, shards.total_tokens).sum(dtype=np.int64)),
        lost_assistant_tokens=lost_tokens,
    )
    return starts_N[kept_N], np.minimum(full_N, seq_len_tokens)[kept_N], fit


class PackedRows:
    """Rows of `seq_len_tokens` packed from the conversations of masked shards; what ChatLoader permutes.

    `fit` counts what is cut and left out. Raises UserError if no conversation is left.
    """

    def __init__(self, shards: TokenShards, seq_len_tokens: int, seed: int):
        self.shards, self.seq_len_tokens = shards, seq_len_tokens
        self._starts_N, self._lengths_N, self.fit = fit_rows(shards, seq_len_tokens)
        if not self._starts_N.size:
            raise UserError(
                f"chat source {shards.source!r}: none of its {self.fit.conversations} conversations has an assistant "
                f"token within seq_len_tokens={seq_len_tokens}; give it more data or longer rows"
            )
        self._rows = pack(self._lengths_N, seq_len_tokens, seed)

    def __len__(self) -> int:
        return len(self._rows)

    def spans(self, row: int) -> list[tuple[int, int]]:
        """Positions [start, stop) in the shards of the conversations of a row, in their order in the row."""
        return [(int(self._starts_N[i]), int(self._starts_N[i] + self._lengths_N[i])) for i in self._rows[row]]

    def assemble(self, rows: NDArray[np.int64]) -> tuple[NDArray, NDArray, NDArray]:
        """(ids_BT, targets_BT, doc_start_BT), int64; a target is the next token where that is to be learned."""
        shape = (len(rows), self.seq_len_tokens)
        ids_BT = np.full(shape, self.shards.eos_id, dtype=np.int64)
        targets_BT = np.full(shape, IGNORE, dtype=np.int64)
        doc_start_BT = np.empty(shape, dtype=np.int64)
        for b, row in enumerate(rows.tolist()):
            at = 0
            for start, stop in self.spans(row):
                end = at + stop - start
                ids_BT[b, at:end] = self.shards.tokens(start, stop)
                learned = self.shards.mask(start + 1, stop) == 1
                targets_BT[b, at : end - 1] = np.where(learned, ids_BT[b, at + 1 : end], IGNORE)
                doc_start_BT[b, at:end] = at
                at = end
            doc_start_BT[b, at:] = at
        return ids_BT, targets_BT, doc_start_BT

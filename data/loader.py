"""Data order as a pure function: `batch(step, slots)` depends on recipe, seed and shards, and on nothing else.

A *window* is a span of `seq_len_tokens` of a source's stream; windows do not overlap and the last, partial one is
dropped. The mixture says which sample of which source a slot gets; sample n of a source is window
`permute(n mod windows)` of epoch `n div windows`, with a fresh permutation per epoch. Invariants: every window once
per epoch; the same rows for any grouping of the slots into ranks, micro-batches or prefetching; resuming needs only the
step, and `fingerprint` says whether the shards are the same.

Isolation: `doc_start_BT` holds the beginning of each position's document in its row, and a target is ignored where the
next token belongs to another document.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from data.config import MixtureRecipe
from data.errors import UserError
from data.mixture import Mixture
from data.packing import IGNORED, PackedRows
from data.permutation import hash64, name_key, permute
from data.shards import TokenShards
from data.store import canonical_json

_EPOCH_KEY = name_key("windows of an epoch")
_ROW_KEY = name_key("noise of a row")


@dataclass(frozen=True)
class Batch:
    """Rows for the model, all int64: ids, next-token targets (-100 ignored), document starts, noise keys, and the
    index of each row's source among the reader's sources in sorted order, 0 where it reads one alone."""

    ids_BT: NDArray[np.int64]
    targets_BT: NDArray[np.int64]
    doc_start_BT: NDArray[np.int64]
    row_key_B: NDArray[np.int64]
    source_B: NDArray[np.int64]


@dataclass(frozen=True)
class Sample:
    """What a slot reads: a window of a source in an epoch, tokens [start, stop) of the source's stream."""

    source: str
    epoch: int
    window: int
    start: int
    stop: int


class Windows:
    """The windows of one split; raises UserError if there is none."""

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

    def assemble(self, windows: NDArray[np.int64]) -> tuple[NDArray, NDArray, NDArray]:
        """(ids_BT, targets_BT, doc_start_BT), int64, of the given windows."""
        length = self.seq_len_tokens
        tokens_BT1 = np.empty((len(windows), length + 1), dtype=np.int64)
        begins_BT1 = np.zeros((len(windows), length + 1), dtype=np.int64)  # t where a document begins at t, else 0
        for b, start in enumerate((windows * length).tolist()):
            tokens_BT1[b] = self.shards.tokens(start, start + length + 1)
            begins = self.shards.document_starts(start, start + length + 1) - start
            begins_BT1[b, begins] = begins
        targets_BT = np.where(begins_BT1[:, 1:] > 0, IGNORED, tokens_BT1[:, 1:])
        doc_start_BT = np.maximum.accumulate(begins_BT1[:, :-1], axis=1)
        return tokens_BT1[:, :-1].copy(), targets_BT, doc_start_BT


class MixtureLoader:
    """Batches of `batch_rows` slots per step, drawn from token-shard artifacts in the recipe's proportions.

    Raises UserError if a source is smaller than a window or the sources have different tokenizers.
    """

    def __init__(
        self,
        shard_dirs: Mapping[str, Path],
        mixture: MixtureRecipe,
        *,
        seed: int,
        steps: int,
        seq_len_tokens: int,
        batch_rows: int,
    ):
        self.seed, self.seq_len_tokens = seed, seq_len_tokens
        self._mixture = Mixture(mixture, seed=seed, steps=steps, batch_rows=batch_rows)
        missing = sorted(set(self._mixture.sources) - set(shard_dirs))
        if missing:
            raise UserError(f"mixture.start names {', '.join(missing)}, for which there are no token shards")
        shards = [TokenShards(Path(shard_dirs[name]) / "train") for name in self._mixture.sources]
        if len({s.tokenizer_fingerprint for s in shards}) > 1:
            raise UserError(
                f"sources {', '.join(self._mixture.sources)} were tokenized by different tokenizers; rebuild them"
            )
        self._windows = [Windows(s, seq_len_tokens) for s in shards]
        self.fingerprint = _fingerprint(dict(zip(self._mixture.sources, shards, strict=True)), seq_len_tokens)

    def batch(self, step: int, slots: Sequence[int]) -> Batch:
        """The rows of these slots of a step, in their order. Raises IndexError outside the run."""
        slots_B = np.asarray(slots, dtype=np.int64)
        shape = (len(slots_B), self.seq_len_tokens)
        ids_BT, targets_BT, doc_start_BT = (np.empty(shape, dtype=np.int64) for _ in range(3))
        source_B, _, window_B = self._place(step, slots_B)
        for index, windows in enumerate(self._windows):
            rows = np.flatnonzero(source_B == index)
            if rows.size:
                ids_BT[rows], targets_BT[rows], doc_start_BT[rows] = windows.assemble(window_B[rows])
        return Batch(ids_BT, targets_BT, doc_start_BT, _row_keys(self.seed, step, slots_B), source_B)

    @property
    def sources(self) -> list[str]:
        """What `source_B` counts, in sorted order."""
        return self._mixture.sources

    def sample(self, step: int, slot: int) -> Sample:
        """What one slot of a step reads."""
        source, epoch, window = (int(x[0]) for x in self._place(step, np.array([slot])))
        start = window * self.seq_len_tokens
        return Sample(self._mixture.sources[source], epoch, window, start, start + self.seq_len_tokens)

    def describe(self, step: int, slot: int) -> tuple[Sample, range]:
        """What a slot read, and the ordinals of the documents in it, as in the source's documents artifact."""
        sample = self.sample(step, slot)
        shards = self._windows[self._mixture.sources.index(sample.source)].shards
        return sample, shards.documents(sample.start, sample.stop)

    def counts(self, step: int) -> dict[str, int]:
        """Rows of each source in a step."""
        return self._mixture.counts(step)

    def _place(self, step: int, slots_B: NDArray[np.int64]) -> tuple[NDArray, NDArray, NDArray]:
        """(source index, epoch, window) per slot."""
        source_B, ordinal_B = self._mixture.assign(step, slots_B)
        epoch_B, window_B = np.empty_like(ordinal_B), np.empty_like(ordinal_B)
        for index, windows in enumerate(self._windows):
            rows = source_B == index
            epoch_B[rows], window_B[rows] = _shuffled(
                ordinal_B[rows], len(windows), self.seed, name_key(self._mixture.sources[index])
            )
        return source_B, epoch_B, window_B


class ChatLoader:
    """Batches of packed conversations from a chat artifact; loss on assistant tokens only.

    `truncated_conversations` and `dropped_conversations` as in PackedRows; `rows_per_epoch` rows are one pass.
    """

    def __init__(self, chat_dir: Path, *, seed: int, steps: int, seq_len_tokens: int, batch_rows: int):
        shards = TokenShards(Path(chat_dir) / "train")
        self._rows = PackedRows(shards, seq_len_tokens, seed)
        self.seed, self.steps, self.batch_rows = seed, steps, batch_rows
        self.source = shards.source
        self.rows_per_epoch = len(self._rows)
        self.truncated_conversations = self._rows.truncated_conversations
        self.dropped_conversations = self._rows.dropped_conversations
        self.fingerprint = _fingerprint({shards.source: shards}, seq_len_tokens)

    def batch(self, step: int, slots: Sequence[int]) -> Batch:
        """The rows of these slots of a step, in their order. Raises IndexError outside the run."""
        slots_B = np.asarray(slots, dtype=np.int64)
        _, row_B = self._place(step, slots_B)
        return Batch(*self._rows.assemble(row_B), _row_keys(self.seed, step, slots_B), np.zeros_like(slots_B))

    @property
    def sources(self) -> list[str]:
        """What `source_B` counts: the one source."""
        return [self.source]

    def counts(self, step: int) -> dict[str, int]:
        """Rows of each source in a step: all of the one source."""
        return {self.source: self.batch_rows}

    def _place(self, step: int, slots_B: NDArray[np.int64]) -> tuple[NDArray, NDArray]:
        """(epoch, row) per slot."""
        if not 0 <= step < self.steps or slots_B.min() < 0 or slots_B.max() >= self.batch_rows:
            raise IndexError(f"step {step}, slots {slots_B} of {self.steps} steps of {self.batch_rows} slots")
        ordinal_B = step * self.batch_rows + slots_B
        return _shuffled(ordinal_B, self.rows_per_epoch, self.seed, name_key(self.source))


def held_out_batches(shards: TokenShards, seq_len_tokens: int, max_tokens: int, rows: int) -> Iterator[Batch]:
    """The first rows of a split in order, up to `max_tokens` but at least one row, `rows` at a time.

    Text gives windows; a split smaller than one gives a single shorter row, an empty one nothing. Chat gives packed
    conversations with targets on assistant tokens.
    """
    if shards.total_tokens < 2:
        return
    if shards.masked:
        source = PackedRows(shards, seq_len_tokens, seed=0)
    else:
        source = Windows(shards, min(seq_len_tokens, shards.total_tokens - 1))
    wanted_rows = min(len(source), max(1, max_tokens // seq_len_tokens))
    for first in range(0, wanted_rows, rows):
        index_B = np.arange(first, min(first + rows, wanted_rows))
        yield Batch(*source.assemble(index_B), _row_keys(0, 0, index_B), np.zeros_like(index_B))


def _shuffled(ordinal_B: NDArray[np.int64], n: int, seed: int, stream_key: int) -> tuple[NDArray, NDArray]:
    """(epoch, place) of the given samples of a stream of n places, permuted afresh in each epoch."""
    epoch_B, within_B = np.divmod(ordinal_B, n)
    return epoch_B, permute(within_B, n, hash64(seed, _EPOCH_KEY, stream_key, epoch_B))


def _row_keys(seed: int, step: int, slots_B: ArrayLike) -> NDArray[np.int64]:
    return (hash64(seed, _ROW_KEY, step, slots_B) >> np.uint64(1)).astype(np.int64)


def _fingerprint(shards: Mapping[str, TokenShards], seq_len_tokens: int) -> str:
    identity = {
        "seq_len_tokens": seq_len_tokens,
        "shards": {name: s.fingerprint for name, s in shards.items()},
    }
    return hashlib.sha256(canonical_json(identity).encode()).hexdigest()

"""Data order as a pure function: `batch(step, slots)` depends on recipe, seed and shards, and on nothing else.

The phases say how many rows of how many tokens a step has, the mixture which sample of which source a slot gets
(data/mixture.py), and the order of the source's windows which tokens that sample is (data/windows.py). Invariants: no
token of a source twice in an epoch, also where the row length changes; the same rows for any grouping of the slots into
ranks, micro-batches or prefetching; resuming needs only the step, and `fingerprint` says whether the shards are the
same.

Isolation: `doc_start_BT` holds the beginning of each position's document in its row, and a target is ignored where the
next token belongs to another document.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from athanor.core.errors import UserError
from athanor.core.keys import canonical_json
from athanor.core.targets import IGNORE
from athanor.data.data_recipe import MixtureRecipe
from athanor.data.filter import RowFilter
from athanor.data.mixture import Mixture
from athanor.data.packing import PackedRows
from athanor.data.permutation import hash64, name_key
from athanor.data.phases import Phase, phase_at
from athanor.data.shards import TokenShards
from athanor.data.tokenizer import Tokenizer
from athanor.data.windows import WindowOrder, Windows, shuffled

_ROW_KEY = name_key("noise of a row")


@dataclass(frozen=True)
class Batch:
    """Rows for the model, all int64: ids, next-token targets (IGNORE where nothing is learned), document starts, noise
    keys, and the index of each row's source among the reader's sources in sorted order, 0 where it reads one alone."""

    ids_BT: NDArray[np.int64]
    targets_BT: NDArray[np.int64]
    doc_start_BT: NDArray[np.int64]
    row_key_B: NDArray[np.int64]
    source_B: NDArray[np.int64]

    @property
    def ignored_rows(self) -> int:
        """Rows from which nothing is learned, e.g. those the filter rejects."""
        return int((self.targets_BT == IGNORE).all(axis=1).sum())


@dataclass(frozen=True)
class Sample:
    """What a slot reads: in an epoch, a window of a source (chat: a row of its packing).

    `tokens` are its spans [start, stop) of the source's stream, `documents` the first and the last document in each, as
    ordinals in the source's documents artifact: one of both, for chat one per conversation.
    """

    source: str
    epoch: int
    window: int
    tokens: tuple[tuple[int, int], ...]
    documents: tuple[tuple[int, int], ...]

    def to_json(self) -> dict[str, Any]:
        """The fields as JSON values."""
        return asdict(self)


class MixtureLoader:
    """Batches drawn from token-shard artifacts in the recipe's proportions, of the rows that the phases say.

    `tokenizer` is what the recipe's filter judges by, and is needed for nothing else. Raises UserError if a source is
    smaller than a window or the sources have different tokenizers.
    """

    def __init__(
        self,
        shard_dirs: Mapping[str, Path],
        mixture: MixtureRecipe,
        *,
        seed: int,
        steps: int,
        phases: Sequence[Phase],
        tokenizer: Tokenizer | None = None,
    ):
        self.seed, self.phases = seed, tuple(phases)
        self._mixture = Mixture(mixture, seed=seed, steps=steps, phases=phases)
        sources = self._mixture.sources
        missing = sorted(set(sources) - set(shard_dirs))
        if missing:
            raise UserError(f"mixture.start names {', '.join(missing)}, for which there are no token shards")
        shards = [TokenShards(Path(shard_dirs[name]) / "train") for name in sources]
        if len({s.tokenizer_fingerprint for s in shards}) > 1:
            raise UserError(f"sources {', '.join(sources)} were tokenized by different tokenizers; rebuild them")
        self._windows_SP = [[Windows(s, phase.seq_len_tokens) for phase in phases] for s in shards]
        self._orders_S = [
            WindowOrder(name, seed, len(windows_P[-1]), phases, rows_P)
            for name, windows_P, rows_P in zip(sources, self._windows_SP, self._mixture.rows_PS.T.tolist(), strict=True)
        ]
        self._filter = None
        if mixture.filter is not None:
            if tokenizer is None:
                raise ValueError("mixture.filter needs a tokenizer to judge by")
            self._filter = RowFilter(mixture.filter, tokenizer)
        self.fingerprint = _fingerprint(dict(zip(sources, shards, strict=True)), phases[-1].seq_len_tokens)

    def batch(self, step: int, slots: Sequence[int]) -> Batch:
        """The rows of these slots of a step, in their order. Raises IndexError outside the run."""
        slots_B = np.asarray(slots, dtype=np.int64)
        source_B, _, window_B = self._place(step, slots_B)
        phase = phase_at(self.phases, step)
        shape = (len(slots_B), self.phases[phase].seq_len_tokens)
        ids_BT, targets_BT, doc_start_BT = (np.empty(shape, dtype=np.int64) for _ in range(3))
        for source in np.unique(source_B).tolist():
            rows = np.flatnonzero(source_B == source)
            windows = self._windows_SP[source][phase]
            ids_BT[rows], targets_BT[rows], doc_start_BT[rows] = windows.assemble(window_B[rows])
        if self._filter is not None:
            targets_BT[self._filter.noisy(ids_BT)] = IGNORE
        return Batch(ids_BT, targets_BT, doc_start_BT, _row_keys(self.seed, step, slots_B), source_B)

    @property
    def sources(self) -> list[str]:
        """What `source_B` counts, in sorted order."""
        return self._mixture.sources

    def batch_rows(self, step: int) -> int:
        """Slots of a step."""
        return self.phases[phase_at(self.phases, step)].batch_rows

    def describe(self, step: int, slot: int) -> Sample:
        """What a slot of a step reads. Raises IndexError outside the run."""
        source, epoch, window = (int(x[0]) for x in self._place(step, np.array([slot])))
        windows = self._windows_SP[source][phase_at(self.phases, step)]
        return _sample(self._mixture.sources[source], epoch, window, windows.shards, [windows.span(window)])

    def counts(self, step: int) -> dict[str, int]:
        """Rows of each source in a step."""
        return self._mixture.counts(step)

    def epochs(self) -> dict[str, float]:
        """How many times the run reads each source's training tokens."""
        lengths_P = np.array([phase.seq_len_tokens for phase in self.phases])
        drawn_S = lengths_P @ self._mixture.rows_PS
        tokens_S = np.array([windows_P[-1].shards.total_tokens for windows_P in self._windows_SP])
        return dict(zip(self.sources, (drawn_S / tokens_S).tolist(), strict=True))

    def _place(self, step: int, slots_B: NDArray[np.int64]) -> tuple[NDArray, NDArray, NDArray]:
        """(source index, epoch, window of the step's length) per slot."""
        source_B, ordinal_B = self._mixture.assign(step, slots_B)
        phase = phase_at(self.phases, step)
        epoch_B, window_B = np.empty_like(ordinal_B), np.empty_like(ordinal_B)
        for source in np.unique(source_B).tolist():
            rows = source_B == source
            epoch_B[rows], window_B[rows] = self._orders_S[source].place(phase, ordinal_B[rows])
        return source_B, epoch_B, window_B


class ChatLoader:
    """Batches of packed conversations from a chat artifact; loss on assistant tokens only.

    `rows_per_epoch` rows are one pass. What rows of this length lose is counted before, in the `sft` stage.
    """

    def __init__(self, chat_dir: Path, *, seed: int, steps: int, seq_len_tokens: int, batch_rows: int):
        shards = TokenShards(Path(chat_dir) / "train")
        self._rows = PackedRows(shards, seq_len_tokens, seed)
        self.seed, self.steps, self._batch_rows = seed, steps, batch_rows
        self.source = shards.source
        self.rows_per_epoch = len(self._rows)
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

    def batch_rows(self, step: int) -> int:
        """Slots of a step: the same at every step."""
        return self._batch_rows

    def describe(self, step: int, slot: int) -> Sample:
        """What a slot of a step reads. Raises IndexError outside the run."""
        epoch, row = (int(x[0]) for x in self._place(step, np.array([slot])))
        return _sample(self.source, epoch, row, self._rows.shards, self._rows.spans(row))

    def counts(self, step: int) -> dict[str, int]:
        """Rows of each source in a step: all of the one source."""
        return {self.source: self._batch_rows}

    def epochs(self) -> dict[str, float]:
        """How many times the run reads its rows."""
        return {self.source: self.steps * self._batch_rows / self.rows_per_epoch}

    def _place(self, step: int, slots_B: NDArray[np.int64]) -> tuple[NDArray, NDArray]:
        """(epoch, row) per slot."""
        if not 0 <= step < self.steps or slots_B.min() < 0 or slots_B.max() >= self._batch_rows:
            raise IndexError(f"step {step}, slots {slots_B} of {self.steps} steps of {self._batch_rows} slots")
        ordinal_B = step * self._batch_rows + slots_B
        return shuffled(ordinal_B, self.rows_per_epoch, self.seed, name_key(self.source))


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


def _sample(source: str, epoch: int, window: int, shards: TokenShards, spans: Sequence[tuple[int, int]]) -> Sample:
    documents = [shards.documents(start, stop) for start, stop in spans]
    return Sample(source, epoch, window, tuple(spans), tuple((found[0], found[-1]) for found in documents))


def _row_keys(seed: int, step: int, slots_B: ArrayLike) -> NDArray[np.int64]:
    return (hash64(seed, _ROW_KEY, step, slots_B) >> np.uint64(1)).astype(np.int64)


def _fingerprint(shards: Mapping[str, TokenShards], seq_len_tokens: int) -> str:
    identity = {
        "seq_len_tokens": seq_len_tokens,
        "shards": {name: s.fingerprint for name, s in shards.items()},
    }
    return hashlib.sha256(canonical_json(identity).encode()).hexdigest()

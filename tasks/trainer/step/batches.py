"""Batches of a run: which loader an objective reads, one batch read ahead, and slices that fit the device."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import torch

from athanor.core.disk import write_json
from athanor.core.errors import UserError
from athanor.core.run_files import SLICES, SPEC
from athanor.core.targets import IGNORE
from athanor.data.loader import Batch, ChatLoader, MixtureLoader, held_out_batches
from athanor.data.shards import TokenShards
from athanor.data.tokenizer import load_tokenizer
from athanor.tasks.trainer.process.world import World
from athanor.tasks.trainer.step.micro_batch import micro_batch_rows
from athanor.tasks.trainer.train_recipe import RunSpec

Loader = MixtureLoader | ChatLoader


def build_loader(spec: RunSpec) -> Loader:
    """The loader of the objective. Raises UserError for shards that are missing or do not fit the spec."""
    train = spec.train
    shard_dirs = {source: Path(folder) for source, folder in spec.shard_dirs.items()}
    if spec.objective == "pretrain":
        if spec.mixture is None:
            raise UserError(f"{SPEC}: objective=pretrain needs `mixture`; got none")
        tokenizer = load_tokenizer(Path(spec.tokenizer_dir)) if spec.mixture.filter else None
        return MixtureLoader(
            shard_dirs, spec.mixture, seed=train.seed, steps=train.steps, phases=train.phases, tokenizer=tokenizer
        )
    if set(shard_dirs) != {"chat"}:
        raise UserError(f"{SPEC}: objective=sft reads shard_dirs.chat alone; got {sorted(shard_dirs)}")
    if train.length_phases is not None:
        raise UserError(f"{SPEC}: train.length_phases: packed conversations have rows of one length; leave it out")
    rows = {"seq_len_tokens": train.seq_len_tokens, "batch_rows": train.batch_rows}
    return ChatLoader(shard_dirs["chat"], seed=train.seed, steps=train.steps, **rows)


class HeldOutRows(NamedTuple):
    """What an evaluation reads of a source: its batches, their target tokens, and those of all its held-out text."""

    batches: list[Batch]
    read_tokens: int
    all_tokens: int


def evaluation_rows(spec: RunSpec, slice_tokens: int, device: torch.device) -> int:
    """Rows of a forward pass in evaluation: on a GPU no more than training, which keeps more of each, has room for."""
    asked = spec.runtime.eval_batch_rows
    return min(asked, max(1, slice_tokens // spec.train.seq_len_tokens)) if device.type == "cuda" else asked


def held_out(spec: RunSpec, rows: int) -> dict[str, HeldOutRows]:
    """The held-out text of every source that has any, in batches of `rows` rows."""
    found = {}
    for source, folder in spec.shard_dirs.items():
        shards = TokenShards(Path(folder) / "held_out")
        train = spec.train
        batches = list(held_out_batches(shards, train.seq_len_tokens, train.eval_tokens, rows))
        read_tokens = sum(int((batch.targets_BT != IGNORE).sum()) for batch in batches)
        found[source] = HeldOutRows(batches, read_tokens, shards.target_tokens)
    return {source: text for source, text in found.items() if text.batches}


class ReadAhead:
    """The batches of this rank's slots; while one step is computed, the next one's is read."""

    def __init__(self, loader: Loader, steps: int, slots: Callable[[int], Sequence[int]]):
        """`slots(step)` names the slots to read."""
        self._loader, self._steps, self._slots = loader, steps, slots
        self._reader = ThreadPoolExecutor(1, thread_name_prefix="loader")
        self._coming: tuple[int, Future[Batch]] | None = None

    def batch(self, step: int) -> Batch:
        """The batch of a step. Raises what reading it raised."""
        coming = self._coming if self._coming is not None and self._coming[0] == step else None
        batch = coming[1].result() if coming is not None else self._read(step)
        self._coming = (step + 1, self._reader.submit(self._read, step + 1)) if step + 1 < self._steps else None
        return batch

    def close(self) -> None:
        """Stop reading."""
        self._reader.shutdown(cancel_futures=True)

    def _read(self, step: int) -> Batch:
        return self._loader.batch(step, self._slots(step))


def slice_tokens(run_dir: Path, spec: RunSpec, device: torch.device, world: World) -> int:
    """Tokens of a forward and backward pass: see tasks/trainer/step/micro_batch.py; not more than an attempt that ran
    out of memory has left to try."""
    train, noted = spec.train, run_dir / SLICES
    memory_bytes = torch.cuda.get_device_properties(device).total_memory if device.type == "cuda" else None
    own_rows = train.batch_rows // world.size
    rows = micro_batch_rows(spec.model, train, spec.runtime, device.type, memory_bytes, own_rows)
    tokens = rows * train.seq_len_tokens
    return world.from_first(
        min(tokens, json.loads(noted.read_text(encoding="utf-8"))["tokens"]) if noted.exists() else tokens
    )


def note_smaller_slices(run_dir: Path, tokens: int) -> None:
    """Leave half of `tokens` for the next attempt to try."""
    write_json(run_dir / SLICES, {"tokens": max(1, tokens // 2)})


def rows_of(batch: Batch, start: int, stop: int, device: torch.device) -> dict[str, torch.Tensor]:
    """Rows start .. stop - 1 as the keyword arguments of `LanguageModel.loss`, int64 on the device."""
    names = ("ids_BT", "targets_BT", "doc_start_BT", "row_key_B", "source_B")
    return {name: torch.from_numpy(getattr(batch, name)[start:stop]).to(device) for name in names}

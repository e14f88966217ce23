"""Batches of a run: which loader an objective reads, one batch read ahead, and slices that fit the device."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

from data.errors import UserError
from data.loader import Batch, ChatLoader, MixtureLoader, held_out_batches
from data.shards import TokenShards
from tasks.trainer.config import RunSpec

Loader = MixtureLoader | ChatLoader


def build_loader(spec: RunSpec) -> Loader:
    """The loader of the objective. Raises UserError for shards that are missing or do not fit the spec."""
    shape = {
        "seed": spec.train.seed,
        "steps": spec.train.steps,
        "seq_len_tokens": spec.train.seq_len_tokens,
        "batch_rows": spec.train.batch_rows,
    }
    shard_dirs = {source: Path(folder) for source, folder in spec.shard_dirs.items()}
    if spec.objective == "pretrain":
        if spec.mixture is None:
            raise UserError("run.json: objective=pretrain needs `mixture`; got none")
        return MixtureLoader(shard_dirs, spec.mixture, **shape)
    if set(shard_dirs) != {"chat"}:
        raise UserError(f"run.json: objective=sft reads shard_dirs.chat alone; got {sorted(shard_dirs)}")
    return ChatLoader(shard_dirs["chat"], **shape)


def held_out(spec: RunSpec) -> dict[str, list[Batch]]:
    """The held-out batches of every source that has any text held out."""
    found = {}
    for source, folder in spec.shard_dirs.items():
        shards = TokenShards(Path(folder) / "held_out")
        train = spec.train
        rows = spec.runtime.eval_batch_rows
        found[source] = list(held_out_batches(shards, train.seq_len_tokens, train.eval_tokens, rows))
    return {source: batches for source, batches in found.items() if batches}


def read_ahead(loader: Loader, first_step: int, steps: int, batch_rows: int) -> Iterator[Batch]:
    """The batches of steps first_step .. steps - 1, in order; each is read while the one before it is used."""
    slots = range(batch_rows)
    with ThreadPoolExecutor(1, thread_name_prefix="loader") as reader:
        coming = reader.submit(loader.batch, first_step, slots) if first_step < steps else None
        for step in range(first_step, steps):
            assert coming is not None
            batch = coming.result()
            coming = reader.submit(loader.batch, step + 1, slots) if step + 1 < steps else None
            yield batch


def rows_of(batch: Batch, start: int, stop: int, device: torch.device) -> dict[str, torch.Tensor]:
    """Rows start .. stop - 1 as the keyword arguments of `LanguageModel.loss`, int64 on the device."""
    names = ("ids_BT", "targets_BT", "doc_start_BT", "row_key_B", "source_B")
    return {name: torch.from_numpy(getattr(batch, name)[start:stop]).to(device) for name in names}

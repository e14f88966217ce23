"""Checkpoints: everything a run needs to continue as if it had never stopped.

    checkpoints/step-00000100/
        model-00001-of-00002.safetensors ...   model and optimizer tensors, by torch.distributed.checkpoint; of several
                                               ranks shard-00001-model-00001-of-00002.safetensors ...
        state.json                             step, tokens, guard, course, the states of every random generator
        manifest.json                          key, loader fingerprint, step, size and sha256 of every file

Written to `step-00000100.partial`: files, fsync, the manifest last, fsync, rename, fsync of the folder.
Invariant: a directory `step-N` is a checkpoint if and only if its manifest parses and every file has the size and
sha256 it lists. Loading takes the newest that is, and sets damaged ones aside. Tensors are safetensors and the rest is
JSON, so nothing read here is ever unpickled.

Every rank writes what it holds (of what all hold, its share) and hashes a share of the files; the first does the rest.
A tensor's name and global shape do not depend on how it is sharded, so any world reads what any other wrote. The folder
is one that all ranks reach.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader, HuggingFaceStorageWriter
from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict
from torch.distributed.checkpoint.state_dict_loader import load as dcp_load
from torch.distributed.checkpoint.state_dict_saver import save as dcp_save

from athanor.core.disk import fsync_path, write_json
from athanor.core.errors import UserError
from athanor.core.keys import sha256_file
from athanor.core.run_files import CHECKPOINT_MANIFEST, CHECKPOINT_STATE
from athanor.tasks.trainer.process.world import ALONE, World
from athanor.tasks.trainer.records.retention import Retention

FILE_BYTES = 1 << 30  # a file is assembled in host memory, so this bounds the memory a save needs


@dataclass(frozen=True)
class Position:
    """How far a run has come: optimizer steps completed, tokens they read, and whatever else of it is JSON."""

    step: int
    tokens: int
    state: dict[str, Any] = field(default_factory=dict)


def training_tensors(model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    """The tensors of a run by name, sharing storage with model and optimizer; tied parameters appear once.

    Optimizer state that does not exist yet is created, as if by a step of zero gradients at learning rate zero.
    """
    state = model.state_dict()
    own = {name for name, _ in model.named_parameters()} | {name for name, _ in model.named_buffers()}
    tensors = {f"model.{name}": tensor for name, tensor in state.items() if name in own}
    moments: dict[str, Any] = get_optimizer_state_dict(model, optimizer)["state"]  # pyright: ignore[reportAssignmentType]
    for name, values in moments.items():
        tensors |= {f"optimizer.{name}.{field}": value for field, value in values.items()}
    return tensors


class CheckpointFolder:
    """The checkpoints of one run, which is known by its artifact's key and its loader's fingerprint."""

    def __init__(self, folder: Path, key: str, loader_fingerprint: str, retention: Retention, world: World = ALONE):
        self.folder = folder
        self._world = world
        self._identity = {"key": key, "loader_fingerprint": loader_fingerprint}
        self._retention = retention
        folder.mkdir(parents=True, exist_ok=True)

    def save(self, tensors: dict[str, torch.Tensor], position: Position) -> None:
        """Write one checkpoint and delete those that are not to be kept.

        Raises OSError (disk full, ...) and leaves the earlier checkpoints untouched.
        """
        final = self.folder / f"step-{position.step:08d}"
        partial = final.with_name(final.name + ".partial")
        self._world.by_first(lambda: shutil.rmtree(partial, ignore_errors=True))
        try:
            self._write(partial, tensors, position)
            self._world.by_first(lambda: self._publish(partial, final))
        except OSError:
            if self._world.first:
                shutil.rmtree(partial, ignore_errors=True)
            raise

    def _publish(self, partial: Path, final: Path) -> None:
        if final.exists():
            shutil.rmtree(final)
        os.rename(partial, final)
        fsync_path(self.folder)
        self._prune()

    def newest(self, on_damage: Callable[[str], None]) -> Path | None:
        """The newest valid checkpoint; None when there is none.

        `on_damage` gets one line for each newer one that had to be set aside. Raises UserError for a checkpoint of
        another key or another data order.
        """
        return self._world.by_first(lambda: self._newest(on_damage))

    def _newest(self, on_damage: Callable[[str], None]) -> Path | None:
        for path in reversed(self._steps()):
            if (problem := _problem(path)) is None:
                self._refuse_foreign(path)
                return path
            shutil.rmtree(path.with_name(path.name + ".damaged"), ignore_errors=True)
            os.rename(path, path.with_name(path.name + ".damaged"))
            on_damage(f"checkpoint {path.name} is damaged ({problem}); falling back to the one before it")
        return None

    def anchor(self, step: int, on_damage: Callable[[str], None]) -> Path | None:
        """The newest whole checkpoint at a multiple of `anchor_steps` and not after `step`; None without one.

        `on_damage` gets one line for each newer one that is damaged.
        """
        return self._world.by_first(lambda: self._anchor(step, on_damage))

    def _anchor(self, step: int, on_damage: Callable[[str], None]) -> Path | None:
        for path in reversed(self._steps()):
            at = _step_of(path)
            if at > step or at % self._retention.anchor_steps:
                continue
            if (problem := _problem(path)) is None:
                return path
            on_damage(f"checkpoint {path.name} is damaged ({problem}); going back to the one before it")
        return None

    def load(self, path: Path, tensors: dict[str, torch.Tensor]) -> Position:
        """Fill `tensors` and set the random generators from what `newest` found."""
        with _dcp_errors():
            dcp_load(tensors, storage_reader=HuggingFaceStorageReader(str(path)), no_dist=self._alone)
        position, random_state = _read_state(path)
        _set_random_state(random_state)
        return position

    @property
    def _alone(self) -> bool:
        return self._world.size == 1

    def _write(self, partial: Path, tensors: dict[str, torch.Tensor], position: Position) -> None:
        writer = HuggingFaceStorageWriter(
            str(partial), fqn_to_index_mapping=_file_of_each(tensors), save_distributed=not self._alone
        )
        with _dcp_errors():
            dcp_save(tensors, storage_writer=writer, no_dist=self._alone)

        def write_state() -> list[Path]:
            state = {**asdict(position), "random": _random_state()}
            (partial / CHECKPOINT_STATE).write_text(json.dumps(state), encoding="utf-8")
            return sorted(partial.iterdir())

        paths = self._world.by_first(write_state)
        own = paths[self._world.rank :: self._world.size]
        files = {path.name: entry for found in self._world.together(lambda: _synced(own)) for path, entry in found}
        manifest = {**self._identity, "step": position.step, "files": files}
        self._world.by_first(lambda: _close(partial, manifest))

    def _refuse_foreign(self, path: Path) -> None:
        manifest = json.loads((path / CHECKPOINT_MANIFEST).read_text(encoding="utf-8"))
        for name, ours in self._identity.items():
            if manifest[name] != ours:
                raise UserError(
                    f"{path} was written for {name} {manifest[name]}, this run has {ours}; "
                    f"restore what it was trained on, or delete {self.folder} to start again"
                )

    def _steps(self) -> list[Path]:
        return sorted(p for p in self.folder.glob("step-*") if p.is_dir() and not p.suffix)

    def _prune(self) -> None:
        steps = self._steps()
        kept = self._retention.of([_step_of(path) for path in steps])
        for path in self.folder.glob("step-*"):
            if path not in steps or _step_of(path) not in kept:
                shutil.rmtree(path, ignore_errors=True)


def _synced(paths: list[Path]) -> list[tuple[Path, dict[str, Any]]]:
    """The files, on the disk for good, each with its size and sha256."""
    for path in paths:
        fsync_path(path)
    return [(path, {"size": path.stat().st_size, "sha256": sha256_file(path)}) for path in paths]


def _close(partial: Path, manifest: dict[str, Any]) -> None:
    write_json(partial / CHECKPOINT_MANIFEST, manifest)
    fsync_path(partial)


def _step_of(path: Path) -> int:
    return int(path.name.removeprefix("step-"))


_UNREADABLE = (ValueError, KeyError, TypeError, AttributeError)


def _problem(path: Path) -> str | None:
    """Why a folder is no checkpoint; None if it is one, down to what is in its JSON files."""
    try:
        manifest = json.loads((path / CHECKPOINT_MANIFEST).read_text(encoding="utf-8"))
        files = {name: (entry["size"], entry["sha256"]) for name, entry in manifest["files"].items()}
        identity = manifest["key"], manifest["loader_fingerprint"], manifest["step"]
    except FileNotFoundError:
        return f"no {CHECKPOINT_MANIFEST}"
    except (*_UNREADABLE, OSError) as error:
        return f"{CHECKPOINT_MANIFEST} cannot be read: {type(error).__name__}"
    if identity[2] != _step_of(path) or CHECKPOINT_STATE not in files:
        return f"{CHECKPOINT_MANIFEST} is not that of {path.name}"
    for name, (size, sha256) in files.items():
        file = path / name
        if not file.is_file() or file.stat().st_size != size:
            return f"{name} is not {size} bytes long"
        if sha256_file(file) != sha256:
            return f"{name} has another sha256"
    try:
        _read_state(path)
    except _UNREADABLE as error:
        return f"{CHECKPOINT_STATE} cannot be read: {type(error).__name__}"
    return None


def _read_state(path: Path) -> tuple[Position, dict[str, Any]]:
    """What a checkpoint holds besides tensors: the position, and the states of the random generators."""
    state = json.loads((path / CHECKPOINT_STATE).read_text(encoding="utf-8"))
    position = Position(int(state["step"]), int(state["tokens"]), dict(state["state"]))
    return position, {name: state["random"][name] for name in ("torch", "cuda", "numpy", "python")}


def _file_of_each(tensors: dict[str, torch.Tensor]) -> dict[str, int]:
    files, file, filled_bytes = {}, 1, 0
    for name, tensor in tensors.items():
        if filled_bytes and filled_bytes + tensor.nbytes > FILE_BYTES:
            file, filled_bytes = file + 1, 0
        files[name] = file
        filled_bytes += tensor.nbytes
    return files


@contextmanager
def _dcp_errors() -> Iterator[None]:
    """DCP wraps what went wrong on each rank; raise the first rank's own exception instead."""
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="torch.distributed is disabled")
            yield
    except CheckpointException as error:
        raise error.failures[min(error.failures)][0] from None


def _random_state() -> dict[str, Any]:
    name, words, *rest = cast("tuple[str, np.ndarray, int, int, float]", np.random.get_state(legacy=True))
    on_cuda = torch.cuda.is_available() and torch.cuda.is_initialized()
    return {
        "torch": bytes(torch.get_rng_state().numpy()).hex(),
        "cuda": bytes(torch.cuda.get_rng_state().numpy()).hex() if on_cuda else None,
        "numpy": [name, words.tolist(), *rest],
        "python": random.getstate(),
    }


def _set_random_state(state: dict[str, Any]) -> None:
    torch.set_rng_state(_byte_tensor(state["torch"]))
    if state["cuda"] is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(_byte_tensor(state["cuda"]))
    np.random.set_state(tuple(state["numpy"]))
    version, words, gauss = state["python"]
    random.setstate((version, tuple(words), gauss))


def _byte_tensor(text: str) -> torch.Tensor:
    return torch.tensor(list(bytes.fromhex(text)), dtype=torch.uint8)

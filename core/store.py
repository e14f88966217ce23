"""The artifact store: what is done is decided by these directories, not by a database.

An artifact is a directory `<home>/store/<stage>/<label>-<key12>/` with its files and `manifest.json`. It is
built in a sibling `.partial` directory under a lock, its files are fsynced, the manifest is written last, the
directory is renamed into place and the parent is fsynced.

Invariant: an artifact exists if and only if its manifest parses, belongs to its key, and every listed file has
the listed size (`verify=True` also compares sha256). Anything else is *torn*: named, and rebuilt by the caller.
What a key is says core/keys.py.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from athanor.core.disk import fsync_path, home, write_json
from athanor.core.errors import UserError
from athanor.core.keys import artifact_key, sha256_file

SCHEMA = 1
MANIFEST = "manifest.json"
ENGINE_RECORD = "prefect-result.json"  # the workflow engine's own note that this is done; no part of the artifact


@dataclass(frozen=True)
class Artifact:
    """A place in the store: where the result of (stage, key) lies or will lie."""

    stage: str
    label: str
    key: str
    path: Path

    @property
    def name(self) -> str:
        """Store-relative name, e.g. `tokenize/math-0a1b2c3d4e5f`."""
        return f"{self.stage}/{self.label}-{self.key[:12]}"

    @cached_property
    def manifest(self) -> dict[str, Any]:
        """The parsed manifest. Raises UserError when the artifact is not (whole) in the store."""
        manifest, problem = _read_manifest(self)
        if manifest is None:
            raise UserError(f"artifact {self.name}: {problem}; run the flow that makes it")
        return manifest

    @property
    def facts(self) -> dict[str, Any]:
        """The figures its stage reported."""
        return self.manifest["facts"]

    def file(self, name: str) -> Path:
        """A file of the artifact. Raises UserError when the manifest does not list it."""
        if name not in self.manifest["files"]:
            raise UserError(f"artifact {self.name} holds no {name}; it holds {', '.join(self.manifest['files'])}")
        return self.path / name


def _read_manifest(artifact: Artifact) -> tuple[dict[str, Any] | None, str]:
    path = artifact.path / MANIFEST
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        key = artifact_key(artifact.stage, manifest["code_version"], manifest["recipe"], manifest["parents"])
        files = {name: (entry["size"], entry["sha256"]) for name, entry in manifest["files"].items()}
    except FileNotFoundError:
        return None, f"{MANIFEST} is missing"
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        return None, f"{MANIFEST} cannot be read ({type(error).__name__})"
    if key != manifest.get("key") or not key.startswith(artifact.key[:12]):
        return None, f"{MANIFEST} does not belong to key {artifact.key[:12]}"
    for name, (size, _) in files.items():
        file = artifact.path / name
        if not file.is_file():
            return None, f"{name} is missing"
        if file.stat().st_size != size:
            return None, f"{name} has {file.stat().st_size} bytes, the manifest says {size}"
    return manifest, ""


class Store:
    """The artifacts below one root directory."""

    def __init__(self, root: Path | None = None):
        self.root = root if root is not None else home() / "store"

    def artifact(self, stage: str, label: str, key: str) -> Artifact:
        """The place of an artifact, whether or not it exists."""
        return Artifact(stage, label, key, self.root / stage / f"{label}-{key[:12]}")

    def problem(self, artifact: Artifact, verify: bool = False) -> str | None:
        """Why the artifact does not count as existing; None when it is whole."""
        manifest, problem = _read_manifest(artifact)
        if manifest is None:
            return problem
        if verify:
            for name, entry in manifest["files"].items():
                if sha256_file(artifact.path / name) != entry["sha256"]:
                    return f"{name} was altered: its sha256 differs from the manifest's"
        return None

    def artifacts(self) -> Iterator[Artifact]:
        """Every directory that claims to be an artifact, by stage and name."""
        for path in sorted(self.root.glob("*/*-*")):
            if path.is_dir() and not path.name.startswith("."):
                label, _, key12 = path.name.rpartition("-")
                yield Artifact(path.parent.name, label, key12, path)

    def begun(self) -> Iterator[Artifact]:
        """Every artifact whose building was begun and is not finished, by stage and name; also of those that are there
        and being built again."""
        for path in sorted(self.root.glob("*/.*-*.partial")):
            name = path.name[1:].removesuffix(".partial")
            label, _, key12 = name.rpartition("-")
            yield Artifact(path.parent.name, label, key12, path.with_name(name))

    def find(self, text: str) -> Artifact:
        """The one artifact whose name or key starts with, or whose path is, `text`. Raises UserError otherwise."""
        wanted = text.rstrip("/")
        found = [
            a
            for a in self.artifacts()
            if a.key.startswith(wanted)
            or a.name.startswith(wanted)
            or a.path.name.startswith(wanted)
            or a.path == Path(wanted).absolute()
        ]
        if len(found) != 1:
            what = f"{len(found)} artifacts match" if found else "no artifact matches"
            names = ", ".join(a.name for a in found[:5])
            raise UserError(f"{what} {text!r} in {self.root}{': ' + names if names else ''}; see `athanor artifacts`")
        return found[0]

    def find_or_begun(self, text: str) -> Artifact:
        """As `find`; where no artifact is meant, the one that was begun. Raises UserError otherwise."""
        try:
            return self.find(text)
        except UserError:
            begun = [a for a in self.begun() if a.name.startswith(text) or a.path.name.startswith(text)]
            if len(begun) != 1:
                raise
            return begun[0]

    def made_from(self, artifacts: Collection[Artifact]) -> list[Artifact]:
        """The whole artifacts that were made from these, directly or through others, by stage and name."""
        parents = {a: manifest["parents"].values() for a in self.artifacts() if (manifest := _read_manifest(a)[0])}
        keys, made = {artifact.key[:12] for artifact in artifacts}, []
        while more := [a for a in parents if a.key not in keys and keys.intersection(key[:12] for key in parents[a])]:
            made += more
            keys.update(artifact.key for artifact in more)
        return sorted(made, key=lambda artifact: artifact.name)

    def remove(self, artifact: Artifact) -> None:
        """Delete an artifact's directory in one visible step (rename away, then delete)."""
        if artifact.path.exists():
            grave = artifact.path.with_name(f".{artifact.path.name}.removed-{os.getpid()}")
            os.rename(artifact.path, grave)
            shutil.rmtree(grave, ignore_errors=True)

    @contextmanager
    def lock(self, artifact: Artifact, on_wait: Callable[[], None]) -> Iterator[None]:
        """Hold the artifact's build lock; `on_wait` is called once if another live process holds it.

        The kernel drops the lock when its holder dies, so a crash never blocks the next run.
        """
        artifact.path.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(self._lock_path(artifact))
        try:
            lock.acquire(timeout=0)
        except Timeout:
            on_wait()
            lock.acquire(poll_interval=0.2)
        try:
            yield
        finally:
            lock.release()

    def was_built(self, artifact: Artifact) -> bool:
        """Whether one that is not there was once: its lock file outlives it."""
        return not artifact.path.exists() and self._lock_path(artifact).exists()

    def _lock_path(self, artifact: Artifact) -> Path:
        return artifact.path.with_name(f".{artifact.path.name}.lock")

    def partial_path(self, artifact: Artifact) -> Path:
        """Where the artifact is built, whether or not that was begun."""
        return artifact.path.with_name(f".{artifact.path.name}.partial")

    def partial(self, artifact: Artifact, resume: bool) -> Path:
        """The directory to build in; emptied first unless `resume`. Hold the lock while using it."""
        path = self.partial_path(artifact)
        if not resume and path.exists():
            shutil.rmtree(path)
        path.mkdir(parents=True, exist_ok=True)
        return path

    def publish(self, artifact: Artifact, partial: Path, manifest: dict[str, Any]) -> None:
        """Turn a finished `.partial` directory into the artifact, replacing a torn or older one.

        `manifest` needs code_version, recipe, parents, code, versions, wall_s, cost_usd, facts, created; schema,
        key, stage, label and files are filled in here.
        """
        files = {}
        for path in sorted(p for p in partial.rglob("*") if p.is_file()):
            name = path.relative_to(partial).as_posix()
            if name in (MANIFEST, ENGINE_RECORD):
                continue
            fsync_path(path)
            files[name] = {"size": path.stat().st_size, "sha256": sha256_file(path)}
        full = {
            "schema": SCHEMA,
            "key": artifact.key,
            "stage": artifact.stage,
            "label": artifact.label,
            **manifest,
            "files": files,
        }
        write_json(partial / MANIFEST, full)
        for folder in [partial, *(p for p in partial.rglob("*") if p.is_dir())]:
            fsync_path(folder)
        self.remove(artifact)
        os.rename(partial, artifact.path)
        fsync_path(artifact.path.parent)
        artifact.__dict__.pop("manifest", None)

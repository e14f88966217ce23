"""What is known of runs that are compared: from the database, from their folders and from what they were made of.

A run that was deleted has its rows in the database and no more.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from athanor.core.keys import sha256_file
from athanor.core.run_files import SPEC
from athanor.core.store import Artifact, Store
from athanor.reports.compared import ComparedRun
from athanor.tasks.evaluations import read_evaluation
from athanor.tasks.runs import read
from athanor.tasks.runs.follow import run_folders

TOKENIZER = "tokenizer.json"


def compared(db: sqlite3.Connection, rows: Sequence[sqlite3.Row]) -> list[ComparedRun]:
    """Everything of the runs of these `overview` rows."""
    known = _Known(Store())
    return [_compared(db, row, known) for row in rows]


def _compared(db: sqlite3.Connection, row: sqlite3.Row, known: _Known) -> ComparedRun:
    run, folder = row["run"], known.folders.get(row["run"])
    spec = read.recipe(db, run) if folder is None else known.spec(folder)
    manifest = known.manifest(folder) if folder is not None else None
    return ComparedRun(
        name=row["name"],
        stage=row["stage"],
        state=read.state_now(row),
        family=row["family"],
        parameters=row["parameters"],
        steps=row["step"],
        steps_planned=row["steps_planned"],
        tokens=row["tokens"],
        tokens_per_s=read.median_tokens_per_s(db, run),
        device_s=row["device_s"],
        usd=row["usd"] or None,
        curve=read.curve(db, row),
        averages={m.step: m.ema[0] for m in read.milestones(db, run)},
        recipe={**known.recipe(spec, row["stage"]), "runtime": spec.get("runtime")},
        tokenizer_sha256=known.tokenizer_sha256(folder, spec) if folder is not None else None,
        held_out_text=known.held_out_text(spec),
        made_by={"code": manifest["code"], **manifest["versions"]} if manifest is not None else {},
        evaluations=list(known.evaluations(run)),
    )


class _Known:
    """The store, as far as runs were made from it or scored."""

    def __init__(self, store: Store):
        self._store = store

    @cached_property
    def folders(self) -> dict[str, Path]:
        """Run -> where it lies, whole or not."""
        return {folder.run: folder.path for folder in run_folders(self._store)}

    def spec(self, folder: Path) -> dict[str, Any]:
        return json.loads((folder / SPEC).read_text(encoding="utf-8"))

    def recipe(self, spec: Mapping[str, Any], stage: str) -> dict[str, Any]:
        """The preset's fields along the lineage of a run: of fine-tuning those of its base, too."""
        fields: dict[str, Any] = {"model": spec["model"]}
        if (start := self._place(spec.get("init_dir"))) is not None:
            made_here = (start / SPEC).is_file()
            fields |= self.recipe(self.spec(start), "pretrain") if made_here else {"checkpoint": start.name}
        sources = {source: self._asked(self._documents(shards)) for source, shards in self._shards(spec)}
        if stage == "sft":
            fields["sft"] = {"train": spec["train"], "source": sources.get("chat")}
        else:
            fields |= {"pretrain": spec["train"], "data": {"mixture": spec.get("mixture"), "sources": sources or None}}
        return {**fields, "tokenizer": self._asked(self._place(spec.get("tokenizer_dir")))}

    def tokenizer_sha256(self, folder: Path, spec: Mapping[str, Any]) -> str | None:
        """Of the tokenizer's file, in the run's folder or where it was made."""
        places = [folder, self._place(spec.get("tokenizer_dir"))]
        file = next((p / TOKENIZER for p in places if p is not None and (p / TOKENIZER).is_file()), None)
        return sha256_file(file) if file is not None else None

    def held_out_text(self, spec: Mapping[str, Any]) -> dict[str, str]:
        """Source -> name of the artifact with its documents."""
        found = ((source, self._documents(shards)) for source, shards in self._shards(spec))
        return {source: documents.name for source, documents in found if documents is not None}

    def evaluations(self, run: str) -> Iterator[dict[str, Any]]:
        """Of the run's model, the newest last; under `settings`, what fixes the items of each."""
        for artifact in self._evaluations.get(run, ()):
            settings = {k: v for k, v in artifact.manifest["recipe"].items() if k not in ("label", "model")}
            yield {**read_evaluation(artifact), "settings": settings}

    @cached_property
    def _evaluations(self) -> dict[str, list[Artifact]]:
        found: dict[str, list[Artifact]] = {}
        whole = (a for a in self._store.artifacts() if a.stage == "evaluate" and self._store.problem(a) is None)
        for artifact in sorted(whole, key=lambda artifact: artifact.manifest["created"]):
            found.setdefault(artifact.manifest["parents"]["model"][:12], []).append(artifact)
        return found

    def _shards(self, spec: Mapping[str, Any]) -> Iterator[tuple[str, Path]]:
        for source, path in (spec.get("shard_dirs") or {}).items():
            if (place := self._place(path)) is not None:
                yield source, place

    def _documents(self, shards: Path) -> Path | None:
        """Where the documents lie, or lay, that shards were made of; a stage's label is that of its documents."""
        if (manifest := self.manifest(shards)) is None:
            return None
        return self._store.artifact("acquire", manifest["label"], manifest["parents"]["documents"]).path

    def _place(self, path: str | None) -> Path | None:
        """Where an artifact lies that a run was given as a path: in this store, which may have moved."""
        return None if path is None else self._store.root / Path(path).parent.name / Path(path).name

    def _asked(self, place: Path | None) -> Any:
        """The recipe of an artifact, or where it is gone its name."""
        if place is None:
            return None
        if (manifest := self.manifest(place)) is None:
            return place.name
        rest = dict(manifest["recipe"])
        return {**rest.pop("asked", {}), **rest}

    def manifest(self, place: Path) -> dict[str, Any] | None:
        """Of an artifact that is whole."""
        label, _, key12 = place.name.rpartition("-")
        artifact = Artifact(place.parent.name, label, key12, place)
        return artifact.manifest if self._store.problem(artifact) is None else None

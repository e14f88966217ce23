"""Where a model lies that a person names: a path, an artifact, or the preset that made it.

A prefix of an artifact's name or key will do. A preset's name means what the newest report of that preset shows, of
several models the fine-tuned one; `sft/NAME` and `pretrain/NAME` ask for one of them. A preset's file means the preset.
A name that means more than one model is an error that lists them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import yaml

from athanor.core.errors import UserError
from athanor.core.run_files import SPEC
from athanor.core.store import Artifact, Store
from athanor.models.checkpoints.files import ORIGIN, WEIGHTS, read_object

_MADE = ("models.sft", "models.base")  # a report's parents, the last made first


@dataclass(frozen=True)
class ModelPlace:
    """A file or folder, the name that means it whatever else comes to be, and what is to be said about how the name
    given was understood, if anything."""

    path: Path
    name: str
    note: str = ""


def find_model(text: str) -> ModelPlace:
    """Where the model `text` lies. UserError, one line, for none, several, or an artifact that is not whole."""
    if (path := Path(text).expanduser()).suffix in (".yaml", ".yml"):
        text = _name_in(path)
    elif path.exists():
        return ModelPlace(path, text)
    store, wanted = Store(), text.rstrip("/")
    named = [a for a in store.artifacts() if (a.path / WEIGHTS).exists() and _begins(a, wanted)]
    made, note = _made_by(store, wanted)
    found = {artifact.path: artifact for artifact in (*named, *made)}
    if len(found) != 1:
        what = f"{len(found)} models match" if found else "no model matches"
        names = ", ".join(artifact.name for artifact in list(found.values())[:5])
        raise UserError(
            f"{what} {text!r}{': ' + names if names else ''}; give a folder, an artifact of {store.root} (see `athanor "
            "artifacts`) or the name of a preset that has run"
        )
    (artifact,) = found.values()
    if (problem := store.problem(artifact)) is not None:
        raise UserError(f"artifact {artifact.name} is torn: {problem}; `athanor run` rebuilds it")
    return ModelPlace(artifact.path, artifact.name, note)


def trained_for(folder: Path) -> str | None:
    """What a portable checkpoint was last trained for, `pretrain` or `sft`; None where nothing says so."""
    for name in (SPEC, ORIGIN):
        if (folder / name).is_file() and (said := read_object(folder / name).get("objective")) is not None:
            return str(said)
    return None


def _name_in(preset: Path) -> str:
    """The name of a preset's file: what it says of itself, or the file's."""
    try:
        said = yaml.safe_load(preset.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        said = None
    return str(said.get("name", preset.stem)) if isinstance(said, dict) else preset.stem


def _begins(artifact: Artifact, text: str) -> bool:
    return bool(text) and any(name.startswith(text) for name in (artifact.name, artifact.path.name, artifact.key))


def _made_by(store: Store, text: str) -> tuple[list[Artifact], str]:
    """The model of the newest report of a preset of that name, and which it is where there are several."""
    stage, _, preset = text.rpartition("/")
    reports = [a for a in store.artifacts() if (a.stage, a.label) == ("report", preset) and store.problem(a) is None]
    reports.sort(key=lambda report: report.manifest["created"], reverse=True)
    models = [model for report in reports if (model := _shown(store, report, stage)) is not None]
    if not models:
        return [], ""
    others = len({model.path for model in models}) - 1
    note = f"{models[0].name} is the newest of {others + 1} that preset {preset} made" if others else ""
    return models[:1], note


def _shown(store: Store, report: Artifact, stage: str) -> Artifact | None:
    """The last made model of a report, or that of a stage."""
    parents = report.manifest["parents"]
    return next((one for name in _MADE if name in parents for one in _of_key(store, parents[name], stage)), None)


def _of_key(store: Store, key: str, stage: str) -> Iterator[Artifact]:
    return (a for a in store.artifacts() if key.startswith(a.key) and stage in ("", a.stage))

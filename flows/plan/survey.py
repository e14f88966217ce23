"""What a run would do, without doing it: every artifact of a preset, there, half done or to be built, and why.

A key depends on the recipe and the parents' keys alone, so all keys are known before anything is built. A stage that
must run is compared with the artifact of the same stage and label that is nearest to it, and the fields that differ
are its reason.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from athanor.core.recipe import Recipe
from athanor.core.store import Artifact, Store
from athanor.flows.chain import Chain
from athanor.flows.presets.preset import Preset
from athanor.tasks.stage import Inputs, Stage, parent_keys
from athanor.tasks.trainer.records.retention import CHECKPOINTS

State = Literal["cached", "resume", "run"]
# Flow name -> what of the chain it is about.
GOALS = {
    "lifecycle": "report",
    "data": "shards",
    "pretrain": "base",
    "sft": "tuned",
    "evaluate": "evaluations",
    "interpret": "maps",
    "report": "report",
}
_SHOWN_CHARACTERS = 30


@dataclass(frozen=True)
class Difference:
    """One field in which the wanted artifact differs from the nearest one; None where one of them lacks it."""

    field: str
    old: Any
    new: Any

    def __str__(self) -> str:
        if self.field.startswith("parents."):
            return f"{self.field.removeprefix('parents.')} is another"
        old, new = (json.dumps(value, ensure_ascii=False) for value in (self.old, self.new))
        if max(len(old), len(new)) > _SHOWN_CHARACTERS:
            return f"{self.field} changed"
        return f"{self.field}: {old} -> {new}"


@dataclass(frozen=True)
class StageSurvey:
    """One artifact: its state and the reason for it. `step` is the training step it resumes at."""

    stage: str
    artifact: Artifact
    recipe: Recipe
    inputs: Inputs
    state: State
    why: str
    differences: tuple[Difference, ...] = ()
    step: int = 0


class Survey(Chain):
    """A chain that builds nothing: asked for an artifact, it notes what would become of it."""

    def __init__(self, preset: Preset):
        super().__init__(preset)
        self.store = Store()
        self.stages: list[StageSurvey] = []

    def needed_by(self, flow: str) -> list[StageSurvey]:
        """What a flow needs, in the order it is made; the whole lifecycle is surveyed as well."""
        getattr(self, GOALS[flow])
        needed = list(self.stages)
        _ = self.report
        return needed

    def _make(self, stage: Stage, recipe: Any, label: str, **inputs: Any) -> Artifact:
        artifact = stage.artifact(recipe, label, inputs, self.store)
        self.stages.append(_survey(stage, recipe, artifact, inputs, self.store, self.preset.runtime.rebuild_drifted))
        return artifact


def _survey(
    stage: Stage, recipe: Recipe, artifact: Artifact, inputs: Inputs, store: Store, rebuild_drifted: bool
) -> StageSurvey:
    def found(state: State, why: str, differences: Iterable[Difference] = (), step: int = 0) -> StageSurvey:
        return StageSurvey(stage.name, artifact, recipe, inputs, state, why, tuple(differences), step)

    torn = ""
    if artifact.path.exists():
        problem = store.problem(artifact)
        if problem is None and artifact.manifest["code"] == stage.fingerprint():
            return found("cached", "")
        if problem is None and not rebuild_drifted:
            return found("cached", "made by other code than today's; --rebuild-drifted builds it again")
        torn = f"torn: {problem}" if problem is not None else "made by other code than today's"
    partial = store.partial_path(artifact)
    if stage.resumable and partial.is_dir():
        if (step := newest_step(partial)) is not None:
            return found("resume", f"at step {step:,}", step=step)
        if (tokens := _tokens_written(partial)) is not None:
            return found("resume", f"after {tokens:,} tokens")
    if torn:
        return found("run", torn)
    nearest, differences = _nearest(stage, recipe, artifact, parent_keys(inputs), store)
    if nearest is None:
        return found("run", "nothing there yet")
    return found("run", f"{', '.join(map(str, differences))} (nearest: {nearest.key[:12]})", differences)


def newest_step(partial: Path) -> int | None:
    """Step of the newest checkpoint in a run's folder whose files have the sizes its manifest lists; else None."""
    for folder in sorted((partial / CHECKPOINTS).glob("step-*[0-9]"), reverse=True):
        try:
            manifest = json.loads((folder / "manifest.json").read_text())
            if all((folder / name).stat().st_size == file["size"] for name, file in manifest["files"].items()):
                return manifest["step"]
        except (OSError, ValueError, KeyError, TypeError):
            continue
    return None


def _tokens_written(partial: Path) -> int | None:
    """Tokens of the whole shards an interrupted tokenization left; None where there is none."""
    try:
        return json.loads((partial / "train" / "shards.json").read_text())["total_tokens"] or None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _nearest(
    stage: Stage, recipe: Recipe, wanted: Artifact, parents: dict[str, str], store: Store
) -> tuple[Artifact | None, list[Difference]]:
    """The whole artifact of this stage and label with the fewest differing fields, the newest among equals."""
    fields = _flat(_identity(stage.code_version, recipe.model_dump(mode="json", exclude_none=True), parents))
    candidates = []
    for artifact in store.artifacts():
        alike = (artifact.stage, artifact.label) == (wanted.stage, wanted.label)
        if alike and artifact.path != wanted.path and store.problem(artifact) is None:
            manifest = artifact.manifest
            theirs = _flat(_identity(manifest["code_version"], manifest["recipe"], manifest["parents"]))
            names = sorted(theirs.keys() | fields.keys())
            differences = [Difference(n, theirs.get(n), fields.get(n)) for n in names if theirs.get(n) != fields.get(n)]
            candidates.append((artifact, differences))
    if not candidates:
        return None, []
    newest_first = sorted(candidates, key=lambda found: found[0].manifest["created"], reverse=True)
    return min(newest_first, key=lambda found: len(found[1]))


def _identity(code_version: int, recipe: dict[str, Any], parents: dict[str, str]) -> dict[str, Any]:
    return {"code_version": code_version, **recipe, "parents": parents}


def _flat(fields: Any, path: str = "") -> dict[str, Any]:
    """Dotted path -> value of every leaf."""
    return dict(_leaves(fields, path))


def _leaves(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict) and value:
        for name, inner in value.items():
            yield from _leaves(inner, f"{path}.{name}" if path else name)
    else:
        yield path, value

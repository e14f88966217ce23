"""What a run would do, without doing it: every artifact of a preset, there, half done or to be built, and why.

A key depends on the recipe and the parents' keys alone, so all keys are known before anything is built. A stage that
must run is compared with the artifact of the same stage and label that is nearest to it, and the fields that differ
are its reason; unless it was there before, or was begun.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from athanor.core.differences import differing
from athanor.core.run_files import CHECKPOINT_MANIFEST, CHECKPOINTS
from athanor.core.store import Artifact, Store
from athanor.flows.chain import Chain
from athanor.tasks.parts import LIFECYCLE
from athanor.tasks.preset_recipe import Preset
from athanor.tasks.stage import Stage, Wanted, parent_keys

State = Literal["cached", "resume", "run"]
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

    record: Stage
    wanted: Wanted
    artifact: Artifact
    state: State
    why: str
    differences: tuple[Difference, ...] = ()
    step: int = 0

    @property
    def stage(self) -> str:
        """The stage's name."""
        return self.record.name


class Survey(Chain):
    """A chain that builds nothing: asked for an artifact, it notes what would become of it."""

    def __init__(self, preset: Preset):
        super().__init__(preset)
        self.store = Store()
        self.stages: list[StageSurvey] = []

    def needed_by(self, flow: str) -> list[StageSurvey]:
        """What a flow needs, in the order it is made; the whole lifecycle is surveyed as well."""
        self.ask(flow)
        needed = list(self.stages)
        self.ask(LIFECYCLE)
        return needed

    def surveyed(self, artifact: Artifact) -> StageSurvey:
        """What was noted of an artifact."""
        return next(found for found in self.stages if found.artifact.key == artifact.key)

    def _make(self, stage: Stage, wanted: Wanted) -> Artifact:
        found = _survey(stage, wanted, self.store, self.preset.runtime.rebuild_drifted)
        self.stages.append(found)
        return found.artifact


def _survey(stage: Stage, wanted: Wanted, store: Store, rebuild_drifted: bool) -> StageSurvey:
    artifact = stage.artifact(wanted, store)

    def found(state: State, why: str, differences: Iterable[Difference] = (), step: int = 0) -> StageSurvey:
        return StageSurvey(stage, wanted, artifact, state, why, tuple(differences), step)

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
    if partial.is_dir():
        return found("run", "begun and not finished")
    if store.was_built(artifact):
        return found("run", "deleted since it was built")
    nearest, differences = _nearest(stage, wanted, store)
    if nearest is None:
        return found("run", "nothing there yet")
    return found("run", f"{', '.join(map(str, differences))} (nearest: {nearest.key[:12]})", differences)


def newest_step(partial: Path) -> int | None:
    """Step of the newest checkpoint in a run's folder whose files have the sizes its manifest lists; else None."""
    for folder in sorted((partial / CHECKPOINTS).glob("step-*[0-9]"), reverse=True):
        try:
            manifest = json.loads((folder / CHECKPOINT_MANIFEST).read_text(encoding="utf-8"))
            if all((folder / name).stat().st_size == file["size"] for name, file in manifest["files"].items()):
                return manifest["step"]
        except (OSError, ValueError, KeyError, TypeError):
            continue
    return None


def _tokens_written(partial: Path) -> int | None:
    """Tokens of the whole shards an interrupted tokenization left; None where there is none."""
    try:
        return json.loads((partial / "train" / "shards.json").read_text(encoding="utf-8"))["total_tokens"] or None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _nearest(stage: Stage, wanted: Wanted, store: Store) -> tuple[Artifact | None, list[Difference]]:
    """The whole artifact of this stage and label with the fewest differing fields, the newest among equals."""
    recipe = wanted.recipe.model_dump(mode="json", exclude_none=True)
    fields = _identity(stage.code_version, recipe, parent_keys(wanted.inputs))
    candidates = []
    for other in store.artifacts():
        alike = (other.stage, other.label) == (stage.name, wanted.label)
        if alike and store.problem(other) is None:
            manifest = other.manifest
            theirs = _identity(manifest["code_version"], manifest["recipe"], manifest["parents"])
            apart = sorted(differing(theirs, fields).items())
            candidates.append((other, [Difference(name, old, new) for name, (old, new) in apart]))
    if not candidates:
        return None, []
    newest_first = sorted(candidates, key=lambda found: found[0].manifest["created"], reverse=True)
    return min(newest_first, key=lambda found: len(found[1]))


def _identity(code_version: int, recipe: dict[str, Any], parents: dict[str, str]) -> dict[str, Any]:
    return {"code_version": code_version, **recipe, "parents": parents}

"""What a stage is: a record beside the code it describes. A new stage is one file, `tasks/<stage>.py`.

The file declares `STAGE`, and nothing lists them: the chain, the plan and the flows read `STAGES`. It holds the recipe
that is hashed into the key, and these functions:

    wanted(life)                     the artifacts a preset wants of the stage, each with its recipe, label and inputs
    external(preset)                 what it reads that no stage makes (tasks/external.py), for stages that do
    cost(recipe, preset, **inputs)   what building one takes (tasks/cost.py)
    foresee(recipe, preset, **inputs)   what it and those inputs that are built say before it is, for the plan
    build(recipe, run, **inputs)     the work: fills the folder `run.out` and returns facts for the manifest

A stage knows no other stage's code: it asks for artifacts by the stage's name. Its file imports nothing heavy before it
builds, because presets are made of the recipes in it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol

from athanor.core.code import code_fingerprint
from athanor.core.keys import artifact_key
from athanor.core.kinds import Kinds
from athanor.core.progress import Progress
from athanor.core.recipe import Recipe
from athanor.core.runtime import Runtime
from athanor.core.store import Artifact, Store
from athanor.tasks.cost import Cost, TrainingCost
from athanor.tasks.external import External
from athanor.tasks.parts import LIFECYCLE, PARTS

if TYPE_CHECKING:
    from athanor.tasks.preset_recipe import Preset

TRAINER = "athanor.tasks.trainer.__main__"  # the module that the training stages start
CONVERSATIONS = "sft.source"  # what `acquire` calls the documents of SFT; no pretraining source has a dot in its name
ModelName = Literal["base", "sft"]  # the pretrained model or the checkpoint in its place, the fine-tuned one
Inputs = Mapping[str, Artifact | Mapping[str, Artifact]]


@dataclass
class StageRun:
    """What a stage's `build` sees of the run it belongs to."""

    out: Path
    key: str
    runtime: Runtime
    log: Callable[[str], None]
    progress: Progress


@dataclass(frozen=True)
class Wanted:
    """One artifact that a preset wants of a stage. `member` tells it from the stage's others, `label` is for people.

    One that is `on_request` belongs to no part: it is made for the stage that asks for it by its member's name.
    """

    member: str
    label: str
    recipe: Recipe
    inputs: Inputs = field(default_factory=dict)
    on_request: bool = False


class Lifecycle(Protocol):
    """What a stage can ask: the preset, and what other stages make for it, built or found when asked for."""

    @property
    def preset(self) -> Preset:
        """What the user asked for."""
        ...

    @property
    def command(self) -> str:
        """The command line that asks for it again."""
        ...

    def one(self, stage: str, member: str | None = None) -> Artifact:
        """That artifact of a stage; without `member` its only one."""
        ...

    def all(self, stage: str) -> dict[str, Artifact]:
        """Member -> artifact of a stage, without those on request."""
        ...

    def models(self) -> dict[ModelName, Artifact]:
        """The `base_model` and what every stage that trains makes, in order: `base` and, with SFT, `sft`."""
        ...


class Foreseen(NamedTuple):
    """A line for the plan, and whether it is one to think about."""

    message: str
    warning: bool = False


def reads_nothing(preset: Preset) -> Iterable[External]:
    """`external` of a stage that reads artifacts alone."""
    return ()


@dataclass(frozen=True)
class Stage:
    """The record of a stage; `name` is its folder in the store.

    Raise `code_version` when the same recipe must give other bytes than before. `build` of a `resumable` stage finds in
    `run.out` what an earlier attempt left there. One that `trains` has a TrainingCost, and gets from a budget what the
    others leave. What `foresee` returns are lines for the plan; where it raises UserError, `build` would. `code` names
    modules that `build` starts but does not import. One that `shares` the machine may be built beside others, in a
    process that was started for that (tasks/stage_process.py).
    """

    name: str
    part: str
    wanted: Callable[[Lifecycle], Iterable[Wanted]]
    cost: Callable[..., Cost | TrainingCost]
    build: Callable[..., dict]
    external: Callable[[Preset], Iterable[External]] = reads_nothing
    foresee: Callable[..., Iterable[Foreseen]] | None = None
    code_version: int = 1
    resumable: bool = False
    trains: bool = False
    shares: bool = False
    code: tuple[str, ...] = ()

    def __post_init__(self):
        if self.part not in PARTS:
            raise TypeError(f"stage {self.name}: there is no part {self.part!r}, there are {', '.join(PARTS)}")

    def artifact(self, wanted: Wanted, store: Store) -> Artifact:
        """Where what is wanted lies, or will lie; nothing is built."""
        key = artifact_key(self.name, self.code_version, wanted.recipe, parent_keys(wanted.inputs))
        return store.artifact(self.name, wanted.label, key)

    def fingerprint(self) -> str:
        """Fingerprint of the code this stage runs, read once per process."""
        return self._fingerprint

    @cached_property
    def _fingerprint(self) -> str:
        return "-".join(code_fingerprint(module)[:16] for module in (self.build.__module__, *self.code))


STAGES: Kinds[Stage] = Kinds("stage", "athanor.tasks", "STAGE")


def base_model(life: Lifecycle) -> Artifact:
    """The model that is tuned and compared with the tuned one: the pretrained one or, without pretraining, the
    checkpoint that the preset starts from."""
    return life.one("checkpoint" if life.preset.pretrain is None else "pretrain")


def stages_of(flow: str = LIFECYCLE) -> list[Stage]:
    """The stages of a part, or of all parts in their order."""
    parts = PARTS if flow == LIFECYCLE else (flow,)
    return [stage for part in parts for stage in STAGES.records() if stage.part == part]


def inputs_there(inputs: Inputs, there: Callable[[Artifact], bool]) -> dict[str, Any]:
    """The inputs that are there; a group, if all its members are."""
    return {
        name: value
        for name, value in inputs.items()
        if (there(value) if isinstance(value, Artifact) else all(map(there, value.values())))
    }


def parent_keys(inputs: Inputs) -> dict[str, str]:
    """Input name, of a group `name.member`, -> key."""
    parents: dict[str, str] = {}
    for name, value in inputs.items():
        if isinstance(value, Artifact):
            parents[name] = value.key
        else:
            parents |= {f"{name}.{inner}": artifact.key for inner, artifact in value.items()}
    return dict(sorted(parents.items()))

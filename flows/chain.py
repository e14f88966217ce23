"""The lifecycle as a chain: every artifact of one preset, built on first use, each from the ones before it.

What feeds a stage stands in the stage's own file (`wanted`, tasks/stage.py): asked for an artifact, the chain asks for
those it is made from, finds each in the store or builds it, and makes none twice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, cast

from athanor.core.runtime import Runtime
from athanor.core.store import Artifact, Store
from athanor.flows.presets.preset import reproducing_command
from athanor.tasks.preset_recipe import Preset
from athanor.tasks.stage import STAGES, ModelName, Stage, Wanted, base_model, stages_of
from athanor.tasks.stage_task import Decision, run_stage

if TYPE_CHECKING:
    from prefect import State

RuntimeOf = Callable[[str, Artifact], Runtime]  # stage name and the artifact about to be built -> its runtime


class Chain:
    """The artifacts of a preset. `rebuild` names stages to build again; `verify` hashes what the store holds.

    `runtime_of` gives a stage that must be built its runtime; none takes the preset's.
    """

    def __init__(
        self,
        preset: Preset,
        rebuild: Iterable[str] = (),
        verify: bool = False,
        runtime_of: RuntimeOf | None = None,
    ):
        self.preset = preset
        self.rebuild = frozenset(rebuild)
        self.verify = verify
        self.runtime_of = runtime_of
        self._wanted: dict[str, dict[str, Wanted]] = {}
        self._made: dict[tuple[str, str], Artifact] = {}
        self._ends: dict[str, State] = {}

    def check(self) -> None:
        """Raise UserError, one line, for what would fail later: missing files, unknown benchmarks."""
        for stage in stages_of():
            for external in stage.external(self.preset):
                external.check()

    def make(self, flow: str) -> None:
        """Make what a part, or the whole lifecycle, is about."""
        for stage in stages_of(flow):
            self.all(stage.name)

    def all(self, stage: str) -> dict[str, Artifact]:
        """Member -> artifact of a stage, without those that are made on request."""
        wanted = self._wanted_of(stage)
        return {member: self.one(stage, member) for member in wanted if not wanted[member].on_request}

    def one(self, stage: str, member: str | None = None) -> Artifact:
        """That artifact of a stage; without `member` its only one."""
        wanted = self._wanted_of(stage)
        if member is None:
            (member,) = wanted
        if (stage, member) not in self._made:
            self._made[stage, member] = self._make(STAGES[stage], wanted[member])
        return self._made[stage, member]

    def models(self) -> dict[ModelName, Artifact]:
        """The base model and what every stage that trains makes, in order."""
        models: dict[ModelName, Artifact] = {"base": base_model(self)}
        for stage in stages_of():
            if stage.trains:
                models |= cast(dict[ModelName, Artifact], self.all(stage.name))
        return models

    @property
    def command(self) -> str:
        """The command line that asks for the preset again."""
        return reproducing_command(self.preset)

    def _wanted_of(self, stage: str) -> dict[str, Wanted]:
        if stage not in self._wanted:
            self._wanted[stage] = {wanted.member: wanted for wanted in STAGES[stage].wanted(self)}
        return self._wanted[stage]

    def _make(self, stage: Stage, wanted: Wanted) -> Artifact:
        decision = Decision(rebuild=stage.name in self.rebuild, verify=self.verify)
        runtime = self.preset.runtime
        if self.runtime_of is not None:
            store = Store()
            artifact = stage.artifact(wanted, store)
            if decision.rebuild or runtime.rebuild_drifted or store.problem(artifact) is not None:
                runtime = self.runtime_of(stage.name, artifact)
        return run_stage(stage, wanted, runtime, decision, self._ends)

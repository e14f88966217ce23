"""The lifecycle as a chain: every artifact of one preset, built on first use, each from the ones before it.

What feeds a stage stands in the stage's own file (`wanted`, tasks/stage.py): asked for an artifact, the chain asks for
those it is made from. No key needs anything built, so all is asked for first; then each is found in the store or built,
side by side where nothing stands against it (flows/side_by_side.py), and none is made twice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, cast

from athanor.core.runtime import Runtime
from athanor.core.store import Artifact, Store
from athanor.flows.presets.preset import reproducing_command
from athanor.flows.side_by_side import Asked, SideBySide
from athanor.tasks.preset_recipe import Preset
from athanor.tasks.stage import STAGES, ModelName, Stage, Wanted, base_model, inputs_there, stages_of
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
        self._asked: list[Asked] = []
        self._ends: dict[str, State] = {}

    def check(self) -> None:
        """Raise UserError, one line, for what would fail later: missing files, unknown benchmarks."""
        for stage in stages_of():
            for external in stage.external(self.preset):
                external.check()

    def make(self, flow: str) -> None:
        """Make what a part, or the whole lifecycle, is about."""
        self.ask(flow)
        self.build()

    def ask(self, flow: str) -> None:
        """Ask for what a part, or the whole lifecycle, is about."""
        for stage in stages_of(flow):
            self.all(stage.name)

    def build(self) -> None:
        """Find or build what was asked for. Raises UserError, and whatever else a stage does, once all that was begun
        beside it has ended.

        What needs no training comes first: what it shows of the later stages is heard before the first of them is
        paid for. Training is alone, and comes before what is made from other training, so that all that is made from
        it is built at once.
        """
        waiting = [asked for asked in self._asked if asked.key not in self._ends]
        needs_training = self._needing_training()
        with SideBySide(self.preset) as beside:
            while waiting or beside.running:
                ready = [asked for asked in waiting if asked.parents <= self._ends.keys()]
                training = [asked for asked in ready if asked.stage.trains]
                if first := [asked for asked in ready if asked.key not in needs_training]:
                    ready = first
                if found := [asked for asked in ready if not self._must_be_built(asked)]:
                    self._run(found[0], waiting)
                elif training and not first and not beside.running:
                    beside.make_room()
                    self._hear(waiting)
                    self._run(training[0], waiting)
                elif not (training and not first) and (begun := beside.places_for(ready)):
                    for asked, place in begun:
                        waiting.remove(asked)
                        beside.begin(asked, place, self._runtime(asked), self._decision(asked), self._ends)
                elif beside.running:
                    beside.wait_for_one()
                else:
                    self._run(ready[0], waiting)

    def _needing_training(self) -> frozenset[str]:
        """Keys of what trains, and of all that is made from it; parents were asked for first."""
        found: set[str] = set()
        for asked in self._asked:
            if asked.stage.trains or asked.parents & found:
                found.add(asked.key)
        return frozenset(found)

    def _hear(self, waiting: Iterable[Asked]) -> None:
        """Raise the UserError that a stage would, as far as its inputs that are there tell."""
        for asked in waiting:
            if asked.stage.foresee is not None:
                there = inputs_there(asked.wanted.inputs, lambda artifact: Store().problem(artifact) is None)
                list(asked.stage.foresee(asked.wanted.recipe, self.preset, **there))

    def _run(self, asked: Asked, waiting: list[Asked]) -> None:
        waiting.remove(asked)
        run_stage(asked.stage, asked.wanted, self._runtime(asked), self._decision(asked), self._ends)

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
        asked = Asked(stage, wanted)
        self._asked.append(asked)
        return asked.artifact

    def _decision(self, asked: Asked) -> Decision:
        return Decision(rebuild=asked.stage.name in self.rebuild, verify=self.verify)

    def _must_be_built(self, asked: Asked) -> bool:
        """Whether it may have to be, for all that can be told quickly."""
        drifted = self.preset.runtime.rebuild_drifted
        return asked.stage.name in self.rebuild or drifted or Store().problem(asked.artifact) is not None

    def _runtime(self, asked: Asked) -> Runtime:
        if self.runtime_of is None or not self._must_be_built(asked):
            return self.preset.runtime
        return self.runtime_of(asked.stage.name, asked.artifact)

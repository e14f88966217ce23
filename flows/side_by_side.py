"""Which stages are built at once: those that wait for nothing, as far as cores, memory and GPUs reach.

A stage that `shares` the machine takes a core, the memory that it is estimated to need, and, if it computes with a
model where there are GPUs, one of them for itself. The cores' threads are divided evenly. One that would be alone is
built by the flow itself, with all threads and what is loaded already.

What does not share has the machine to itself.

Invariant: whatever ends the flow, the processes are gone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from queue import SimpleQueue
from types import TracebackType
from typing import TYPE_CHECKING

from athanor.core.runtime import Runtime
from athanor.core.store import Artifact, Store
from athanor.flows.room import Place, Room, needs_of
from athanor.tasks.preset_recipe import Preset
from athanor.tasks.stage import Stage, Wanted, parent_keys
from athanor.tasks.stage_process import StageProcess
from athanor.tasks.stage_task import Decision, begin_stage

if TYPE_CHECKING:
    from prefect import State


@dataclass(frozen=True)
class Asked:
    """An artifact that is wanted of a stage."""

    stage: Stage
    wanted: Wanted

    @property
    def artifact(self) -> Artifact:
        """Where it lies, or will; read anew each time."""
        return self.stage.artifact(self.wanted, Store())

    @cached_property
    def key(self) -> str:
        """Its key."""
        return self.artifact.key

    @cached_property
    def parents(self) -> frozenset[str]:
        """The keys of what it is made from."""
        return frozenset(parent_keys(self.wanted.inputs).values())


@dataclass(frozen=True)
class _Begun:
    asked: Asked
    place: Place
    process: StageProcess
    result: Callable[[], Artifact]


class SideBySide:
    """What a flow builds beside what it does itself; to be used in a `with`, whose end ends it all."""

    def __init__(self, preset: Preset):
        self._preset = preset
        self._begun: dict[str, _Begun] = {}
        self._idle: list[StageProcess] = []
        self._over: SimpleQueue[str] = SimpleQueue()
        self._room = Room(cores=0, memory_bytes=0.0)

    @property
    def running(self) -> bool:
        """Whether something is being built."""
        return bool(self._begun)

    def places_for(self, ready: Iterable[Asked]) -> list[tuple[Asked, Place]]:
        """Those that can begin now, with their places; none where one would be alone."""
        sharing = [asked for asked in ready if asked.stage.shares]
        if not self._begun and len(sharing) < 2:
            return []
        if not self._begun:
            self._room = Room.of_this_machine(self._preset.runtime)
        places = [(asked, self._room.take(needs_of(asked.wanted, self._preset))) for asked in sharing]
        given = [(asked, place) for asked, place in places if place is not None]
        if not self._begun and len(given) < 2:
            for _, place in given:
                self._room.leave(place)
            return []
        return given

    def begin(self, asked: Asked, place: Place, runtime: Runtime, decision: Decision, ends: dict[str, State]) -> None:
        """Begin to build it at its place."""
        threads = runtime.threads or max(1, self._room.cores // len(self._room.taken))
        runtime = runtime.model_copy(update={"threads": threads})
        process = next((idle for idle in self._idle if idle.gpu == place.gpu), None)
        if process is None:
            process = StageProcess(place.gpu)
        else:
            self._idle.remove(process)
        result = begin_stage(
            asked.stage, asked.wanted, runtime, decision, process, lambda: self._over.put(asked.key), ends
        )
        self._begun[asked.key] = _Begun(asked, place, process, result)

    def wait_for_one(self) -> None:
        """Wait until one has ended. Raises what it raised."""
        begun = self._begun.pop(self._over.get())
        self._room.leave(begun.place)
        self._idle.append(begun.process)
        begun.result()

    def make_room(self) -> None:
        """End the processes that build nothing, and with them what they hold of memory and of GPUs."""
        while self._idle:
            self._idle.pop().end()

    def __enter__(self) -> SideBySide:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None):
        """After a failure what was begun is finished, for it is of use; a stop ends it."""
        try:
            while self._begun and (kind is None or issubclass(kind, Exception)):
                with suppress(Exception):
                    self.wait_for_one()
        finally:
            for process in [*self._idle, *(begun.process for begun in self._begun.values())]:
                process.end()

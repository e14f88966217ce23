"""Which stages are built at once: those that wait for nothing, as far as cores, memory and GPUs reach.

A stage that `shares` the machine takes a core, the memory that it is estimated to need, and, if it computes with a
model where there are GPUs, one of them for itself. The cores' threads are divided evenly. One that would be alone is
built by the flow itself, with all threads and what is loaded already.

What does not share has the machine to itself.

Invariants: never two on one GPU; never more memory than is free, but for one that is alone; whatever ends the flow, the
processes are gone.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from queue import SimpleQueue
from types import TracebackType
from typing import TYPE_CHECKING

from athanor.core.runtime import Runtime
from athanor.core.store import Artifact, Store
from athanor.tasks.preset_recipe import Preset
from athanor.tasks.stage import Stage, Wanted, parent_keys
from athanor.tasks.stage_process import StageProcess
from athanor.tasks.stage_task import Decision, begin_stage

if TYPE_CHECKING:
    from prefect import State

PROCESS_BYTES = 1 << 30  # Python, torch, lm-eval and what is being read
WEIGHTS = "model.safetensors"  # in an artifact that is a model
VALUE_BYTES = 4
LOADING = 2  # times the weights are there while they are read
ACTIVATIONS = 16  # values of the model's width that a token takes at the peak


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
class Needs:
    """What a stage takes while it is built."""

    memory_bytes: float
    gpu: bool = False


@dataclass(frozen=True)
class Place:
    """What it was given; `gpu` is the number of its own."""

    needs: Needs
    gpu: str | None = None


@dataclass
class Room:
    """A machine's cores, free memory and GPUs, and what is taken of them."""

    cores: int
    memory_bytes: float
    gpus: Sequence[str] = ()
    taken: list[Place] = field(default_factory=list)

    @classmethod
    def of_this_machine(cls, runtime: Runtime) -> Room:
        """What is free here now, of the GPUs those that the run holds."""
        import psutil
        import torch

        from athanor.models.device import choose_device

        count = torch.cuda.device_count() if choose_device(runtime.device).type == "cuda" else 0
        visible = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
        gpus = visible if len(visible) == count else [str(number) for number in range(count)]
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        return cls(cores, psutil.virtual_memory().available, gpus[: runtime.ranks])

    def take(self, needs: Needs) -> Place | None:
        """A place for one more; None where it has to wait."""
        free = [gpu for gpu in self.gpus if gpu not in (place.gpu for place in self.taken)]
        needs_gpu = needs.gpu and bool(self.gpus)
        together_bytes = needs.memory_bytes + sum(place.needs.memory_bytes for place in self.taken)
        fits = len(self.taken) < self.cores and together_bytes <= self.memory_bytes
        if (self.taken and not fits) or (needs_gpu and not free):
            return None
        place = Place(needs, free[0] if needs_gpu else None)
        self.taken.append(place)
        return place

    def leave(self, place: Place) -> None:
        """The place is free again."""
        self.taken.remove(place)


def needs_of(asked: Asked, preset: Preset) -> Needs:
    """What building it takes, once all it is made from is there: a process, and of one that reads with a model its
    weights and what a batch of its longest rows holds."""
    model = asked.wanted.inputs.get("model")
    if not isinstance(model, Artifact):
        return Needs(PROCESS_BYTES)
    weights_bytes = model.manifest["files"][WEIGHTS]["size"]
    shape, rows = preset.model, preset.runtime.eval_batch_rows
    batch_bytes = rows * shape.max_seq_len * shape.d_model * ACTIVATIONS * VALUE_BYTES
    return Needs(PROCESS_BYTES + LOADING * weights_bytes + batch_bytes, gpu=True)


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
        places = [(asked, self._room.take(needs_of(asked, self._preset))) for asked in sharing]
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

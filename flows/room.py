"""The room that a machine has for stages that are built at once: cores, memory and GPUs.

Invariants: never two on one GPU; never more memory than is free, but for one that is alone.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field

from athanor.core.runtime import Runtime
from athanor.core.store import Artifact
from athanor.tasks.preset_recipe import Preset
from athanor.tasks.stage import Wanted

PROCESS_BYTES = 1 << 30  # Python, torch, lm-eval and what is being read
WEIGHTS = "model.safetensors"  # in an artifact that is a model
VALUE_BYTES = 4
LOADING = 2  # times the weights are there while they are read
ACTIVATIONS = 16  # values of the model's width that a token takes at the peak


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


def needs_of(wanted: Wanted, preset: Preset) -> Needs:
    """What building it takes, once all it is made from is there: a process, and of one that reads with a model its
    weights and what a batch of its longest rows holds."""
    model = wanted.inputs.get("model")
    if not isinstance(model, Artifact):
        return Needs(PROCESS_BYTES)
    weights_bytes = model.manifest["files"][WEIGHTS]["size"]
    shape, rows = preset.model, preset.runtime.eval_batch_rows
    batch_bytes = rows * shape.max_seq_len * shape.d_model * ACTIVATIONS * VALUE_BYTES
    return Needs(PROCESS_BYTES + LOADING * weights_bytes + batch_bytes, gpu=True)

"""Peak memory of a training step, counted without allocating any of it.

A step runs on tensors without storage while every storage that appears and goes is followed (models/step_count.py). So
activations, what autograd keeps, casts, chunks of the loss and temporaries are those of the model's own code, whatever
its family; no formula per family exists.

For a GPU it counts the kernels and the attention that a GPU would take. What a library takes inside one operation (GEMM
workspaces, the CUDA context) is not a tensor and not counted; `DEVICE_OVERHEAD_BYTES` stands for it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from athanor.models.step_count import StepCount

DEVICE_OVERHEAD_BYTES = {"cpu": 0, "cuda": 1 << 30}  # context, library workspaces and the allocator's rounding
USABLE_SHARE = 0.92  # of a device; the rest is fragmentation


@dataclass(frozen=True)
class Layout:
    """How a training state lies on `ranks`. By ZeRO's count of stages each keeps its part alone of the optimizer state
    from stage 1, of the gradients from 2, of the weights from 3.

    What is sharded is whole while it is used: at stage 3 the weights and gradients of the largest unit, and of all that
    is no unit, or as many weights as `live_parameters` and gradients as `bucket_parameters`, where those are more.
    `copies_weights` is an optimizer with a copy of its own of the weights it updates. `offload` keeps the optimizer
    with its gradients, or the weights too, in host memory.
    """

    ranks: int = 1
    stage: int = 0
    live_parameters: int = 0
    bucket_parameters: int = 0
    copies_weights: bool = False
    offload: Literal["none", "optimizer", "parameters"] = "none"

    def share(self, stage: int) -> int:
        """Parts into which what is sharded from `stage` on falls."""
        return self.ranks if self.stage >= stage else 1


@dataclass(frozen=True)
class StepMemory:
    """Bytes of one rank on its device. `activations_bytes` is all that comes and goes within a step, at its peak;
    `host_bytes` lie in host memory instead."""

    weights_bytes: int
    gradients_bytes: int
    optimizer_bytes: int
    activations_bytes: int
    host_bytes: int = 0

    @property
    def total_bytes(self) -> int:
        """The peak on the device."""
        return self.weights_bytes + self.gradients_bytes + self.optimizer_bytes + self.activations_bytes


def step_memory(
    count: StepCount,
    *,
    device_type: str = "cpu",
    optimizer_bytes_per_parameter: float = 8.0,
    gradient_bytes_per_parameter: float = 4.0,
    layout: Layout = Layout(),
) -> StepMemory:
    """Peak of the step that was counted, with fp32 weights, gradients and optimizer state in place."""
    parameters, whole = count.parameters, count.gathered_parameters if layout.stage == 3 else 0
    weight_bytes = count.weights_bytes / parameters
    live = max(whole, min(parameters, layout.live_parameters)) * weight_bytes
    bucket = max(whole, min(parameters, layout.bucket_parameters)) * gradient_bytes_per_parameter
    kept = {
        "weights": count.weights_bytes / layout.share(3),
        "gradients": parameters * gradient_bytes_per_parameter / layout.share(2),
        "optimizer": parameters * optimizer_bytes_per_parameter / layout.share(1),
    }
    if layout.copies_weights:
        kept["optimizer"] += count.weights_bytes / layout.share(1)
    moved: set[str] = set()
    if device_type != "cpu" and layout.offload != "none":
        moved = {"optimizer"} | ({"gradients"} if layout.stage >= 2 else set())
        moved |= {"weights"} if layout.offload == "parameters" else set()
    here = {name: 0.0 if name in moved else part_bytes for name, part_bytes in kept.items()}
    return StepMemory(
        weights_bytes=round(here["weights"] + live),
        gradients_bytes=round(here["gradients"] + bucket),
        optimizer_bytes=round(here["optimizer"]),
        activations_bytes=count.peak_bytes,
        host_bytes=round(sum(kept[name] for name in moved)),
    )


def largest_micro_batch_rows(device_bytes: float, memory_of: Callable[[int], StepMemory], most_rows: int) -> int:
    """The most rows, at most `most_rows`, whose step fits a device of `device_bytes`; at least 1.

    `memory_of(rows)` is `step_memory` with everything else filled in. Rows cost alike, so the line through the nearest
    that fits and the nearest that does not finds the place in a few evaluations; what is there without any row, which
    every evaluation tells, is the first that fits.
    """
    room = device_bytes * USABLE_SHARE
    most = memory_of(most_rows)
    if most.total_bytes <= room:
        return most_rows
    fits, fitting_bytes = 0, most.total_bytes - most.activations_bytes
    misfit, misfitting_bytes = most_rows, most.total_bytes
    while misfit - fits > 1:
        row_bytes = max(1.0, (misfitting_bytes - fitting_bytes) / (misfit - fits))
        guess = min(max(fits + int((room - fitting_bytes) / row_bytes), fits + 1), misfit - 1)
        used = memory_of(guess).total_bytes
        if used <= room:
            fits, fitting_bytes = guess, used
        else:
            misfit, misfitting_bytes = guess, used
    return max(1, fits)

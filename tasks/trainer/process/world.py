"""The ranks of a run and what they tell each other; alone, every method is the identity.

Values that steer a run (stop, save, the end, the verdict on a step) must be the same on every rank, or collective
operations no longer meet. They go through here. There is one process group: gloo for what lies in host memory, which
objects do, and nccl for tensors on GPUs.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import torch
import torch.distributed as dist

T = TypeVar("T")


@dataclass(frozen=True)
class World:
    """This process is `rank` of `size`, and `local_rank` on its machine."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0

    @classmethod
    def of_launcher(cls) -> World:
        """As the environment says that torchrun and the deepspeed launcher set; alone without one."""
        variables = ("RANK", "WORLD_SIZE", "LOCAL_RANK")
        return cls(*(int(os.environ[name]) for name in variables)) if "RANK" in os.environ else cls()

    def meet(self, device: torch.device) -> None:
        """Form the process group of a launched world, whose ranks all call this; `disband` ends it."""
        if "RANK" not in os.environ:
            return
        if device.type == "cuda":
            torch.cuda.set_device(device)
        dist.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo")

    @property
    def first(self) -> bool:
        """Whether this is the rank that writes."""
        return self.rank == 0

    def slots(self, batch_rows: int) -> range:
        """The slots of a step that this rank computes: equal, contiguous shares."""
        share = batch_rows // self.size
        return range(self.rank * share, (self.rank + 1) * share)

    def sum(self, values: torch.Tensor) -> torch.Tensor:
        """Elementwise sum over the ranks, in place."""
        if self.size > 1:
            dist.all_reduce(values)
        return values

    def from_first(self, value: T) -> T:
        """Rank 0's value."""
        if self.size == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=0)
        return box[0]

    def together(self, do: Callable[[], T]) -> list[T]:
        """What `do` gives on every rank, in rank order. Where it raises on any, all raise what the first of those did:
        for what is done before the ranks meet again, so that no rank waits for one that has given up."""
        try:
            own: tuple[T | None, Exception | None] = do(), None
        except Exception as error:
            if self.size == 1:
                raise
            own = None, error
        found = self.gather(own)
        if (error := next((error for _, error in found if error is not None), None)) is not None:
            raise error
        return [value for value, _ in found]  # pyright: ignore[reportReturnType]

    def by_first(self, do: Callable[[], T]) -> T:
        """What `do` gives on rank 0, where alone it is called; what it raises there is raised on all."""
        return self.together(lambda: do() if self.first else None)[0]  # pyright: ignore[reportReturnType]

    def gather(self, value: T) -> list[T]:
        """Every rank's value, in rank order."""
        if self.size == 1:
            return [value]
        box: list[T | None] = [None] * self.size
        dist.all_gather_object(box, value)
        return box  # pyright: ignore[reportReturnType]


ALONE = World()


def disband() -> None:
    """Leave the process group, if there is one."""
    if dist.is_initialized():
        dist.destroy_process_group()

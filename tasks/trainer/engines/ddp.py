"""Data parallelism: every rank has the whole model and optimizer, gradients are averaged. torch's own DDP.

DDP averages where a step sums the ranks' shares, so each share is scaled by the number of ranks. Which parameters a
step uses may differ from step to step and from rank to rank (experts, depths drawn at random), hence
`find_unused_parameters`. Buffers are the same on all ranks by construction and are not sent.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from athanor.models.memory import Layout
from athanor.models.skeleton import LanguageModel
from athanor.tasks.trainer.engines.engine import Computation, Engine
from athanor.tasks.trainer.engines.kind import EngineKind
from athanor.tasks.trainer.process.launchers import Torchrun
from athanor.tasks.trainer.process.world import World

T = TypeVar("T")


class DataParallelEngine(Engine):
    """Replicas."""

    def __init__(self, model: LanguageModel, optimizer: torch.optim.Optimizer, world: World, device: torch.device):
        super().__init__(model, optimizer, world)
        self._replica = DistributedDataParallel(
            Computation(model),
            device_ids=[device] if device.type == "cuda" else None,
            find_unused_parameters=True,
            broadcast_buffers=False,
            gradient_as_bucket_view=True,
        )

    def slice(self, last: bool) -> AbstractContextManager:
        return nullcontext() if last else self._replica.no_sync()

    def backward(self, objective: Tensor) -> None:
        super().backward(objective * self.world.size)

    def _call(self, function: Callable[..., T], *arguments: Any) -> T:
        return self._replica(function, *arguments)

    def weights(self) -> dict[str, Tensor]:
        return super().weights() if self.world.first else {}


DECLARED = EngineKind(
    name="ddp",
    launcher=Torchrun(),
    build=lambda parts: DataParallelEngine(parts.model, parts.make_optimizer(parts.model), parts.world, parts.device),
    layout=lambda runtime: Layout(runtime.world_size),
)

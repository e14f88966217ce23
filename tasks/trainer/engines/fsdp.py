"""Fully sharded data parallelism: every rank keeps a part of each parameter. torch's `fully_shard` (FSDP2).

Each of the model's units is gathered when it is computed and sharded again; embedding, head and whatever else is no
unit stay gathered from the forward to the backward pass. Parameters stay fp32 and blocks run under the trainer's
autocast, not under a mixed-precision policy, which would round gains and routers too: the numbers are those of the
other engines. Gradients are reduced in fp32 after every slice, so that they are never whole.

Optimizers that update a sharded parameter as they would the whole one name it in `sharded_by`: not the 8-bit ones,
whose states have blocks of their own, nor torch's Adafactor, which has no sharded form.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from athanor.models.memory import Layout
from athanor.models.skeleton import LanguageModel
from athanor.tasks.trainer.engines.engine import Computation, Engine
from athanor.tasks.trainer.engines.kind import EngineKind
from athanor.tasks.trainer.process.launchers import Torchrun
from athanor.tasks.trainer.process.world import World

T = TypeVar("T")


class ShardedEngine(Engine):
    """Shards. `make_optimizer` is called with the sharded model."""

    def __init__(
        self,
        model: LanguageModel,
        make_optimizer: Callable[[LanguageModel], torch.optim.Optimizer],
        world: World,
        device: torch.device,
    ):
        mesh = init_device_mesh(device.type, (world.size,))
        for unit in model.units():
            fully_shard(unit, mesh=mesh)
        self._sharded: Any = fully_shard(Computation(model), mesh=mesh)
        self._sharded.set_reduce_scatter_unused_params(True)  # ranks may use different ones: experts
        super().__init__(model, make_optimizer(model), world)

    def backward(self, objective: Tensor) -> None:
        super().backward(objective * self.world.size)  # reduce-scatter averages

    def clip(self, max_norm: float) -> Tensor:
        return _whole(super().clip(max_norm))

    @torch.no_grad()
    def compute(self, function: Callable[[LanguageModel], T]) -> T:
        try:
            return self._call(function)
        finally:
            self._sharded.reshard()  # a backward pass does it else

    def _call(self, function: Callable[..., T], *arguments: Any) -> T:
        return self._sharded(function, *arguments)

    def weights(self) -> dict[str, Tensor]:
        whole: dict[str, Any] = {}
        for name, tensor in self.model.state_dict().items():
            tensor = _whole(tensor)
            if self.world.first:
                whole[name] = tensor.cpu()
        return whole


def _whole(tensor: Tensor) -> Tensor:
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


DECLARED = EngineKind(
    name="fsdp",
    launcher=Torchrun(),
    build=lambda parts: ShardedEngine(parts.model, parts.make_optimizer, parts.world, parts.device),
    layout=lambda runtime: Layout(runtime.world_size, stage=3),
)

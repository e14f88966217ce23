"""From a runtime to an engine: the one place that knows which class a name is."""

from __future__ import annotations

from collections.abc import Callable

import torch

from athanor.core.errors import UserError
from athanor.core.runtime import Runtime
from athanor.models.skeleton import LanguageModel
from athanor.tasks.trainer.engines.engine import Engine
from athanor.tasks.trainer.optimizers.defaults import OptimizerName
from athanor.tasks.trainer.process.world import World
from athanor.tasks.trainer.train_recipe import TrainRecipe

# Optimizers whose update of a sharded parameter is that of the whole one. 8-bit states have blocks of their own, and
# torch's Adafactor has no sharded form; DeepSpeed makes one vector of all parameters.
SHARDED_OPTIMIZERS: dict[str, tuple[OptimizerName, ...]] = {
    "fsdp": (
        *("adamw", "adamw-bf16-moments", "lion", "lion-bf16-moments", "cautious-lion"),
        *("muon", "sophia-g", "ellis-adam"),
    ),
    "deepspeed": ("adamw",),
}


def build_engine(
    model: LanguageModel,
    make_optimizer: Callable[[LanguageModel], torch.optim.Optimizer],
    runtime: Runtime,
    recipe: TrainRecipe,
    world: World,
    device: torch.device,
    autocast: torch.dtype,
) -> Engine:
    """The runtime's engine over a model on `device` that computes in `autocast`. `make_optimizer` gets the model as the
    engine lays it out. Raises UserError where the recipe does not allow it."""
    name = runtime.training_engine
    if recipe.optimizer not in (known := SHARDED_OPTIMIZERS.get(name, (recipe.optimizer,))):
        raise UserError(
            f"runtime.engine={name} shards what train.optimizer={recipe.optimizer} needs whole: use engine=ddp, or "
            f"optimizer={', '.join(known)}"
        )
    if name == "single":
        return Engine(model, make_optimizer(model), world)
    if name == "ddp":
        from athanor.tasks.trainer.engines.ddp import DataParallelEngine

        return DataParallelEngine(model, make_optimizer(model), world, device)
    if name == "fsdp":
        from athanor.tasks.trainer.engines.fsdp import ShardedEngine

        return ShardedEngine(model, make_optimizer, world, device)
    from athanor.tasks.trainer.engines.zero import ZeroEngine

    return ZeroEngine(model, make_optimizer(model), world, runtime, recipe.grad_clip, autocast)


def check_world(runtime: Runtime, recipe: TrainRecipe, world: World) -> None:
    """Raises UserError where the ranks that run are not those the runtime asks for, or cannot share the batch."""
    if world.size != runtime.world_size:
        raise UserError(
            f"runtime.ranks={runtime.ranks} and runtime.nodes={runtime.nodes} ask for {runtime.world_size} ranks, but "
            f"the launcher started {world.size}"
        )
    if recipe.batch_rows % world.size:  # shorter rows are more, by whole factors
        raise UserError(
            f"train.batch_tokens={recipe.batch_tokens} are {recipe.batch_rows} rows, which {world.size} ranks cannot "
            f"share equally: make it a multiple of {world.size * recipe.seq_len_tokens}"
        )

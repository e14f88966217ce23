"""From a runtime to its engine, if recipe and ranks allow it."""

from __future__ import annotations

from collections.abc import Callable

import torch

from athanor.core.errors import UserError
from athanor.core.runtime import Runtime
from athanor.models.skeleton import LanguageModel
from athanor.tasks.trainer.engines.engine import Engine
from athanor.tasks.trainer.engines.kind import EngineParts, engine_of
from athanor.tasks.trainer.optimizers.kind import OPTIMIZERS
from athanor.tasks.trainer.process.world import World
from athanor.tasks.trainer.train_recipe import TrainRecipe


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
    engine = engine_of(runtime)
    sharded = [kind.name for kind in OPTIMIZERS.records() if engine.name in kind.sharded_by]
    if engine.layout(runtime).stage and recipe.optimizer not in sharded:
        raise UserError(
            f"runtime.engine={engine.name} shards what train.optimizer={recipe.optimizer} needs whole: use engine=ddp, "
            f"or optimizer={', '.join(sharded)}"
        )
    return engine.build(EngineParts(model, make_optimizer, runtime, recipe.grad_clip, world, device, autocast))


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

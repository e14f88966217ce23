"""From a runtime to its engine, and whether the ranks that it asks for can train a recipe."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from athanor.core.errors import UserError
from athanor.core.runtime import Runtime
from athanor.tasks.trainer.engines.kind import EngineParts, engine_of
from athanor.tasks.trainer.optimizers.kind import OPTIMIZERS
from athanor.tasks.trainer.train_recipe import TrainRecipe

if TYPE_CHECKING:
    import torch

    from athanor.models.skeleton import LanguageModel
    from athanor.tasks.trainer.engines.engine import Engine
    from athanor.tasks.trainer.process.world import World


def build_engine(
    model: LanguageModel,
    make_optimizer: Callable[[LanguageModel], torch.optim.Optimizer],
    runtime: Runtime,
    grad_clip: float,
    world: World,
    device: torch.device,
    autocast: torch.dtype,
) -> Engine:
    """The runtime's engine over a model on `device` that computes in `autocast`. `make_optimizer` gets the model as the
    engine lays it out."""
    return engine_of(runtime).build(EngineParts(model, make_optimizer, runtime, grad_clip, world, device, autocast))


def check_world(runtime: Runtime, recipe: TrainRecipe, world: World) -> None:
    """Raises UserError where the ranks that run are not those the runtime asks for, or cannot train the recipe."""
    if world.size != runtime.world_size:
        raise UserError(
            f"runtime.ranks={runtime.ranks} and runtime.nodes={runtime.nodes} ask for {runtime.world_size} ranks, but "
            f"the launcher started {world.size}"
        )
    check_ranks(runtime, recipe)


def check_ranks(runtime: Runtime, recipe: TrainRecipe) -> None:
    """Raises UserError where the ranks cannot share the batch, or the engine shards what the optimizer needs whole."""
    if runtime.training_engine == "single":  # shares nothing; the engines themselves take a second to import
        return
    ranks, engine = runtime.world_size, engine_of(runtime)
    if recipe.batch_rows % ranks:  # shorter rows are more, by whole factors
        raise UserError(
            f"batch_tokens={recipe.batch_tokens} are {recipe.batch_rows} rows, which {ranks} ranks cannot "
            f"share equally: make it a multiple of {ranks * recipe.seq_len_tokens}"
        )
    sharded = [kind.name for kind in OPTIMIZERS.records() if engine.name in kind.sharded_by]
    if engine.layout(runtime).stage and recipe.optimizer not in sharded:
        raise UserError(
            f"runtime.engine={engine.name} shards what optimizer={recipe.optimizer} needs whole: use engine=ddp, "
            f"or optimizer={', '.join(sharded)}"
        )

"""What an engine declares of itself, and the table of those there are.

A module of this package declares its engine in `DECLARED`, beside the class. The launcher and the builder read the
table. `core.runtime` lists the names once more, for a machine's settings are the ground of everything and know nothing
of what stands on it; a test holds the two lists equal.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from athanor.core.kinds import Kinds
from athanor.core.runtime import Runtime
from athanor.tasks.trainer.process.launchers import Launcher

if TYPE_CHECKING:
    import torch

    from athanor.models.memory import Layout
    from athanor.models.skeleton import LanguageModel
    from athanor.tasks.trainer.engines.engine import Engine
    from athanor.tasks.trainer.process.world import World


@dataclass(frozen=True)
class EngineParts:
    """What engines are made of: a model on `device` that computes in `autocast`, and the optimizer over it as the
    engine lays it out."""

    model: LanguageModel
    make_optimizer: Callable[[LanguageModel], torch.optim.Optimizer]
    runtime: Runtime
    grad_clip: float
    world: World
    device: torch.device
    autocast: torch.dtype


@dataclass(frozen=True)
class EngineKind:
    """One engine: `launcher` starts its ranks, `build` makes it in each of them, and `layout` says what each keeps. One
    that shards anything takes only the optimizers that name it in `sharded_by`."""

    name: str
    launcher: Launcher
    build: Callable[[EngineParts], Engine]
    layout: Callable[[Runtime], Layout]


ENGINES: Kinds[EngineKind] = Kinds("engine", "athanor.tasks.trainer.engines", "DECLARED")


def engine_of(runtime: Runtime) -> EngineKind:
    """The engine that a runtime trains with."""
    return ENGINES[runtime.training_engine]

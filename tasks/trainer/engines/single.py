"""One process: the plain engine, and no launcher."""

from __future__ import annotations

from athanor.models.memory import Layout
from athanor.tasks.trainer.engines.engine import Engine
from athanor.tasks.trainer.engines.kind import EngineKind
from athanor.tasks.trainer.process.launchers import Direct

DECLARED = EngineKind(
    name="single",
    launcher=Direct(),
    build=lambda parts: Engine(parts.model, parts.make_optimizer(parts.model), parts.world),
    layout=lambda runtime: Layout(),
)

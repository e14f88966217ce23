"""Routers that collapse: a choice that is no longer made is an event, once, and so is its return.

Watched are the diagnostics that a model calls its smallest shares, averaged over about MEMORY_STEPS steps, since a
small batch may leave a choice out by chance. What had collapsed in the model that fine-tuning starts from is said as
that, and not as if it happened again.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from athanor.core.numbers import share
from athanor.core.rows import Row
from athanor.core.run_files import SUMMARY
from athanor.models.maps import UNUSED_SHARE
from athanor.tasks.trainer.observers.kind import Observer, Scene

MEMORY_STEPS = 50


class Collapse(Observer):
    """Says when a router's smallest share falls to nothing."""

    name = "collapse"

    def __init__(self, scene: Scene):
        super().__init__(scene)
        self._names = scene.engine.model.smallest_shares
        self._shares: dict[str, list[float]] = {name: [] for name in self._names}
        self._collapsed = _inherited(scene.spec.init_dir, self._names)

    def begin(self, step: int) -> None:
        if step == 0 and self._collapsed:
            self.scene.say(f"routers had collapsed in the model it starts from: {', '.join(self._collapsed)}")

    def row(self, row: Row) -> None:
        for name in self._names if row["kind"] == "step" else ():
            if (smallest := row["aux"].get(name)) is not None:
                self._shares[name] = [*self._shares[name], smallest][-MEMORY_STEPS:]
                self._judge(name)

    def _judge(self, name: str) -> None:
        shares = self._shares[name]
        unused = sum(shares) / MEMORY_STEPS < UNUSED_SHARE
        if len(shares) < MEMORY_STEPS or unused == (name in self._collapsed):
            return
        if unused:
            self._collapsed.append(name)
            self.scene.say(f"a router has collapsed: {name} was below {share(UNUSED_SHARE)} over {MEMORY_STEPS} steps")
        else:
            self._collapsed.remove(name)
            self.scene.say(f"the router has come back: {name} is {share(sum(shares) / MEMORY_STEPS)}")

    def state(self) -> dict[str, Any]:
        return {"smallest_shares": self._shares, "collapsed_routers": self._collapsed}

    def restore(self, state: dict[str, Any]) -> None:
        self._shares = {name: state["smallest_shares"][name] for name in self._names}
        self._collapsed = state["collapsed_routers"]

    def summary(self) -> dict[str, Any]:
        return {"collapsed_routers": self._collapsed} if self._collapsed else {}


def _inherited(init_dir: str | None, names: Sequence[str]) -> list[str]:
    """Those of `names` that had collapsed at the end of the run that left its files in `init_dir`."""
    summary = None if init_dir is None else Path(init_dir) / SUMMARY
    if summary is None or not summary.is_file():
        return []
    collapsed = json.loads(summary.read_text(encoding="utf-8")).get("collapsed_routers", [])
    return [name for name in names if name in collapsed]


DECLARED = Collapse

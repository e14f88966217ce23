"""Routers that collapse: a choice that is no longer made is an event, once, and so is its return.

Watched are the diagnostics that a model calls its smallest shares, averaged over about MEMORY_STEPS steps, since a
small batch may leave a choice out by chance.
"""

from __future__ import annotations

from typing import Any

from athanor.core.numbers import share
from athanor.core.rows import Row
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
        self._collapsed: list[str] = []

    def row(self, row: Row) -> None:
        for name in self._names if row["kind"] == "step" else ():
            if (smallest := row["aux"].get(name)) is not None:
                self._shares[name] = [*self._shares[name], smallest][-MEMORY_STEPS:]
                self._judge(name)

    def _judge(self, name: str) -> None:
        shares = self._shares[name]
        unused = len(shares) == MEMORY_STEPS and sum(shares) / MEMORY_STEPS < UNUSED_SHARE
        if unused == (name in self._collapsed):
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


DECLARED = Collapse

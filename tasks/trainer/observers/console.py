"""The run on the terminal, or in the file its output goes to."""

from __future__ import annotations

import time

from athanor.core.numbers import duration, money
from athanor.core.rows import Row
from athanor.tasks.trainer.observers.kind import Observer, Scene

CONSOLE_EVERY_S = 5.0


class ConsoleLines(Observer):
    """Prints events and evaluations, and a step every CONSOLE_EVERY_S."""

    name = "console"

    def __init__(self, scene: Scene):
        super().__init__(scene)
        self._steps = scene.spec.train.steps
        self._printed = -CONSOLE_EVERY_S

    def row(self, row: Row) -> None:
        if row["kind"] == "event":
            print(f"step {row['step']}: {row['message']}")
        elif row["kind"] == "eval":
            losses = "  ".join(
                f"{source} {m['loss']:.4f} nats/token {m['bits_per_byte']:.4f} bits/byte"
                for source, m in row["held_out"].items()
            )
            print(f"step {row['step']}: held-out {losses}")
        elif time.monotonic() - self._printed >= CONSOLE_EVERY_S or row["step"] == self._steps:
            self._printed = time.monotonic()
            spent = f"  {money(row['cost_usd'])}" if row["cost_usd"] else ""  # nothing where no price is known
            print(
                f"step {row['step']}/{self._steps}  loss {row['loss']:.4f}  lr {row['lr']:.2e}  "
                f"{row['tokens_per_s']:,.0f} tok/s  {duration(row['eta_s'])} left{spent}"
            )


DECLARED = ConsoleLines

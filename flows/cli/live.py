"""What a terminal shows of a run: one live line for the stage being built, one lasting line for each that is done.

Piped, the same lines without the live one. Prefect's own lines about its task and flow runs are left out, but for what
is tried again and for faults of the program: how a run ended is said once, by the command. What a stage says is shown
under the stage's name.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskID, TextColumn

from athanor.core.errors import UserError
from athanor.core.numbers import compact, duration, money, number
from athanor.core.progress import WATCHER, Pace, Watcher
from athanor.tasks.trainer.process.exit_codes import Retryable

ENGINE_MODULES = ("flow_engine", "task_engine", "runner")  # of Prefect, which tell of every state


class LiveStages(Watcher):
    """Draws on `console`: a bar where it is a terminal. `built` are the titles of the stages that were not cached."""

    def __init__(self, console: Console):
        self._console = console
        self._bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=20),
            TextColumn("{task.fields[said]}"),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self.built: list[str] = []
        self._running: dict[str, tuple[TaskID, Pace, float]] = {}

    @contextmanager
    def showing(self) -> Iterator[None]:
        """Watch the stages that are run inside, and print what they log."""
        token, handler = WATCHER.set(self), _Lines(self._console)
        root = logging.getLogger()
        before = root.handlers[:]
        root.handlers = [h for h in before if type(h).__name__ != "PrefectConsoleHandler"] + [handler]
        try:
            with self._bars:
                yield
        finally:
            root.handlers = before
            WATCHER.reset(token)

    def began(self, title: str, usd_per_hour: float) -> None:
        bar = self._bars.add_task(escape(title), total=None, said="")
        self._running[title] = bar, Pace(), usd_per_hour

    def reached(self, title: str, done: float, total: float | None, unit: str) -> None:
        if title not in self._running:
            return
        bar, pace, usd_per_hour = self._running[title]
        pace.reached(done)
        parts = [f"{compact(done)}{f' of {compact(total)}' if total else ''} {unit}"]
        if (per_s := pace.per_s) is not None:
            parts.append(f"{number(per_s)}/s")
            if total and (left_s := pace.left_s(total)) is not None:
                cost = f", {money(left_s / 3600 * usd_per_hour)}" if usd_per_hour else ""
                parts.append(f"{duration(left_s)}{cost} left")
        self._bars.update(bar, completed=done, total=total, said=escape(", ".join(parts)))

    def ended(self, title: str, cached: bool) -> None:
        if title in self._running:
            self._bars.remove_task(self._running.pop(title)[0])
        if cached:
            self._console.print(f"{escape(title)}: [green]cached[/]", highlight=False, soft_wrap=True)
        else:
            self.built.append(title)


def _is_news(record: logging.LogRecord) -> bool:
    """Whether a line of Prefect's engine says what the command will not: that a stage is tried again, or where in the
    program a fault lies."""
    error = record.exc_info[1] if record.exc_info else None
    known = UserError | Retryable | KeyboardInterrupt
    return " - Retry " in record.getMessage() or (error is not None and not isinstance(error, known))


class _Lines(logging.Handler):
    """Records of stages as `stage name: message`; of anything else, warnings alone."""

    def __init__(self, console: Console):
        super().__init__()
        self._console = console

    def emit(self, record: logging.LogRecord) -> None:
        stage = getattr(record, "task_run_name", None)
        warning = record.levelno >= logging.WARNING
        if (not warning and stage is None) or (record.module in ENGINE_MODULES and not _is_news(record)):
            return
        text = record.getMessage() + (
            f"\n{logging.Formatter().formatException(record.exc_info)}" if record.exc_info else ""
        )
        style = "yellow" if warning else "dim"
        self._console.print(
            f"{stage}: {text}" if stage else text, style=style, markup=False, highlight=False, soft_wrap=True
        )

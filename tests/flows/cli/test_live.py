"""The terminal shows what is being built, at what speed and for how long and how much still, and what was cached."""

from __future__ import annotations

import io
import logging
import time

import pytest
from rich.console import Console

from athanor.core.errors import UserError
from athanor.core.progress import WATCHER
from athanor.flows.cli.live import LiveStages


@pytest.fixture(params=[True, False], ids=["terminal", "piped"])
def console(request) -> Console:
    return Console(file=io.StringIO(), force_terminal=request.param, width=100, no_color=True)


def said(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def stage_record(message: str, module: str = "training", level: int = logging.INFO) -> logging.LogRecord:
    record = logging.LogRecord("prefect.task_runs", level, f"{module}.py", 1, message, None, None)
    record.task_run_name = "pretrain mine"
    return record


def test_a_stage_that_was_cached_is_said_and_not_counted_as_built(console):
    stages = LiveStages(console)
    with stages.showing():
        WATCHER.get().ended("acquire notes", cached=True)
        WATCHER.get().began("tokenize notes", 0.0)
        WATCHER.get().ended("tokenize notes", cached=False)
    assert "acquire notes: cached" in said(console)
    assert stages.built == ["tokenize notes"]
    assert WATCHER.get().__class__ is not LiveStages


def test_the_live_line_says_progress_speed_and_what_is_left_in_time_and_money():
    console = Console(file=io.StringIO(), force_terminal=True, width=160, no_color=True)
    stages = LiveStages(console)
    with stages.showing():
        stages.began("pretrain mine", usd_per_hour=3600.0)
        stages.reached("pretrain mine", 100, 300, "steps, loss 3.123")
        time.sleep(0.2)
        stages.reached("pretrain mine", 102, 300, "steps, loss 3.001")
        bar = stages._bars.tasks[0]
    shown = bar.fields["said"]
    assert shown.startswith("102 of 300 steps, loss 3.001, ")
    rate, left = shown.split(", ")[2:4]
    assert float(rate.removesuffix("/s")) <= 10
    assert shown.endswith("left") and "$" in shown and left
    assert (bar.completed, bar.total) == (102, 300)


def test_an_earlier_attempts_work_is_no_speed():
    stages = LiveStages(Console(file=io.StringIO(), force_terminal=True))
    with stages.showing():
        stages.began("pretrain mine", 0.0)
        stages.reached("pretrain mine", 9000, 10_000, "steps")
        assert stages._bars.tasks[0].fields["said"] == "9,000 of 10.0\u00a0k steps"


def test_an_engine_says_what_is_tried_again_and_where_a_fault_lies_but_not_how_a_run_ended(console):
    def record(message: str, error: BaseException | None = None) -> logging.LogRecord:
        made = stage_record(message, "task_engine", logging.ERROR)
        made.exc_info = None if error is None else (type(error), error, None)
        return made

    with LiveStages(console).showing():
        for line in (
            record("Crash detected! Execution was aborted by an interrupt signal."),
            record("Finished in state Failed('no such file')"),
            record("Encountered exception during execution", UserError("no such file")),
            record("Task run failed with exception: OSError() - Retry 1/2 will start 5 second(s) from now"),
            record("Encountered exception during execution", ZeroDivisionError("a fault")),
        ):
            logging.getLogger().handle(line)
    text = said(console)
    assert "Retry 1/2" in text and "ZeroDivisionError: a fault" in text
    assert "Crash" not in text and "Finished" not in text and "no such file" not in text


def test_what_a_stage_logs_is_shown_under_its_name_and_the_engines_chatter_is_not(console):
    with LiveStages(console).showing():
        log = logging.getLogger()
        for record in (
            stage_record("step 3: held-out [x] 2.4"),
            stage_record("Finished in state Completed()", "task_engine"),
            stage_record("it failed", "training", logging.ERROR),
            logging.LogRecord("httpx", logging.INFO, "x.py", 1, "GET /api", None, None),
        ):
            log.handle(record)
    text = said(console)
    assert "pretrain mine: step 3: held-out [x] 2.4" in text and "it failed" in text
    assert "Finished" not in text and "GET" not in text


def test_the_handlers_that_were_there_are_there_again():
    before = logging.getLogger().handlers[:]
    with LiveStages(Console(file=io.StringIO())).showing():
        assert logging.getLogger().handlers != before
    assert logging.getLogger().handlers == before

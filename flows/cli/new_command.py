"""The command `athanor new`. Heavy packages are imported inside it, as in flows/cli/main.py."""

from __future__ import annotations

import logging
import re
import shlex
from pathlib import Path
from typing import Annotated

import typer

from athanor.core.errors import UserError

app = typer.Typer()


@app.command()
def new(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Of the preset; NAME.yaml is written here")],
    more: Annotated[list[str] | None, typer.Argument(metavar="FILES", hidden=True)] = None,
    files: Annotated[
        list[str] | None,
        typer.Option("--from", metavar="FILES...", help="Text: files, folders, globs; each is a source of its own"),
    ] = None,
    chat: Annotated[str | None, typer.Option(metavar="FILE", help="Conversations to fine-tune on")] = None,
    family: Annotated[str, typer.Option(help="The architecture")] = "polychromatic",
    minutes: Annotated[float, typer.Option(min=0.1, help="How long the whole run is to take on this machine")] = 10.0,
) -> None:
    """Write a preset that fits your text, this machine and the time you have, and show its plan.

    The text is read and counted, models are timed here for some seconds, and
    every choice in NAME.yaml stands below its reason. The file is yours to
    change; one that is there is never overwritten.

    athanor new diary --from notes/ letters.txt --chat chats.jsonl --minutes 20

    Records (.jsonl .json .csv .tsv .parquet) are read by their field `text`,
    or by all their fields that are text. Conversations have `messages`, or a
    question and an answer.
    """
    from rich.console import Console

    from athanor.core.runtime import Runtime
    from athanor.flows.cli.plan_table import print_plan
    from athanor.flows.fitting.fit import Fit
    from athanor.flows.fitting.given import given_conversations, given_sources
    from athanor.flows.fitting.page import written
    from athanor.flows.plan.machine import this_machine
    from athanor.flows.plan.plan import make_plan
    from athanor.flows.presets.preset import load_preset
    from athanor.tasks.preset_recipe import NAME_PATTERN

    logging.getLogger("httpx").setLevel(logging.WARNING)
    name = name.removesuffix(".yaml")
    if not re.match(NAME_PATTERN, name):
        raise UserError(f"NAME {name}: a preset's name has lower-case letters, digits, '.', '_' and '-', such as diary")
    file = Path(f"{name}.yaml")
    if file.exists():
        raise UserError(f"{file} is there already; take another name, or remove it")
    if not files:
        raise UserError("--from is missing: name files or folders with text, such as --from notes/")
    conversations = given_conversations(chat) if chat is not None else None
    machine = this_machine(Runtime())
    fit = Fit(name, given_sources([*files, *(more or ())]), conversations, family, 60 * minutes, machine)
    title = [
        f"Written by `athanor new` for {minutes:g} minutes on {machine.name}. Change what you like:",
        f"`athanor plan {file}` says what it would do, `athanor presets {file}` shows every field.",
    ]
    content = written(fit.chosen().choices, title)
    try:
        with file.open("x", encoding="utf-8") as out:
            out.write(content)
    except OSError as error:
        raise UserError(f"{file}: {error.strerror}; give a NAME in a folder you can write to") from None
    print_plan(make_plan(load_preset(str(file))), Console())
    print(f"wrote {file}; next: athanor run {shlex.quote(str(file))}")

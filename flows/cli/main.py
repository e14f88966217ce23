"""The `athanor` command: run presets, look at presets and artifacts.

Heavy packages are imported inside the commands, so that `athanor --help` answers at once.
"""

from __future__ import annotations

import gc
import json
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from types import FrameType
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape

from athanor.core.errors import UserError
from athanor.flows.cli import data_commands, model_commands, plan_command, runs_commands
from athanor.flows.cli.options import BudgetHours, BudgetUsd, PresetName, Settings, budget_settings
from athanor.flows.cli.tables import table
from athanor.tasks.parts import LIFECYCLE, PARTS

app = typer.Typer(
    help="Take a language model from raw text to an evaluated, explained checkpoint.\n\n"
    "Every stage leaves an artifact in the store (ATHANOR_HOME, default ./.athanor); what is there is never built "
    "twice. Start with: athanor run quickstart",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)
INTERRUPTED = 130
NO_TELEMETRY = {"PREFECT_SERVER_ANALYTICS_ENABLED": "false", "DO_NOT_TRACK": "1"}
GC_ALLOCATIONS = 50_000  # between two collections: what is imported stays, and looking for garbage in it takes long


Part = StrEnum("Part", PARTS)  # what `athanor run --only` can be limited to


@app.command()
def run(
    preset: PresetName,
    only: Annotated[Part | None, typer.Option(help="Only this part; what it needs is found or built")] = None,
    rebuild: Annotated[bool, typer.Option("--rebuild", help="Build the chosen part again, even if it is done")] = False,
    rebuild_drifted: Annotated[
        bool, typer.Option("--rebuild-drifted", help="Build again what other code than today's made")
    ] = False,
    verify: Annotated[bool, typer.Option("--verify", help="Compare every file's sha256, not only its size")] = False,
    budget_usd: BudgetUsd = None,
    budget_hours: BudgetHours = None,
    settings: Settings = None,
    open_report: Annotated[bool, typer.Option("--open", help="Open the report in a browser when it is done")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", help="Show Prefect's own log")] = False,
) -> None:
    """Run a preset from raw text to its report card. The same command continues after any interruption.

    What `athanor plan` checks is checked first. A budget counts every second of every attempt made under it; what it
    cannot pay for is cut from the end of training, which still ends annealed.
    """
    for variable, value in NO_TELEMETRY.items():  # read when Prefect is first imported
        os.environ.setdefault(variable, value)
    from athanor.flows.cli.run_flow import run_flow
    from athanor.flows.presets.preset import load_preset

    overrides = [*(settings or ()), *budget_settings(budget_usd, budget_hours)]
    overrides += ["runtime.rebuild_drifted=true"] if rebuild_drifted else []
    part = only.value if only else LIFECYCLE
    with _interruptible():
        page = run_flow(part, load_preset(preset, overrides), rebuild, verify, verbose)
    if open_report and page is not None:
        typer.launch(page.as_uri())


@app.command()
def presets(
    name: Annotated[str | None, typer.Argument(metavar="[PRESET]", help="Show this preset whole, as YAML")] = None,
    settings: Settings = None,
) -> None:
    """List the presets, or print one as YAML to start your own from.

    What one of them costs, and its exact number of parameters: athanor plan PRESET
    """
    from athanor.flows.presets.preset import load_preset, preset_names

    if name is not None:
        print(load_preset(name, settings or ()).to_yaml(), end="")
        return
    listing = table("preset", "family", "tokens", "what it is")
    for preset in map(load_preset, preset_names()):
        tokens = preset.pretrain.steps * preset.pretrain.batch_tokens if preset.pretrain is not None else 0
        listing.add_row(preset.name, preset.model.family, f"{tokens:,}", escape(preset.description))
    Console().print(listing)


@app.command()
def artifacts(
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object per line")] = False,
    verify: Annotated[bool, typer.Option("--verify", help="Compare every file's sha256, not only its size")] = False,
) -> None:
    """List what the store holds."""
    from athanor.core.numbers import duration, size
    from athanor.core.store import Store

    store = Store()
    listing = table("artifact", "state", "size", "made in", "created")
    for artifact in store.artifacts():
        problem = store.problem(artifact, verify=verify)
        manifest = artifact.manifest if problem is None else {}
        size_bytes = sum(entry["size"] for entry in manifest.get("files", {}).values())
        if as_json:
            print(json.dumps({"name": artifact.name, "path": str(artifact.path), "problem": problem, **manifest}))
        elif problem is None:
            row = (artifact.name, "whole", size(size_bytes), duration(manifest["wall_s"]), manifest["created"])
            listing.add_row(*map(escape, row))
        else:
            listing.add_row(escape(artifact.name), escape(f"torn: {problem}"), "", "", "")
    if not as_json:
        Console().print(
            listing if listing.row_count else f"the store {store.root} is empty: try `athanor run quickstart`"
        )


@app.command()
def show(
    artifact: Annotated[str, typer.Argument(help="Name, key or path of an artifact; a prefix is enough")],
) -> None:
    """Print one artifact's manifest: recipe, parents, files, figures."""
    from athanor.core.store import Store

    store = Store()
    found = store.find(artifact)
    if (problem := store.problem(found)) is not None:
        raise UserError(f"artifact {found.name} is torn: {problem}; `athanor run` rebuilds it")
    print(f"# {found.path}")
    print(json.dumps(found.manifest, indent=2, ensure_ascii=False))


@app.command()
def prepare_server() -> None:
    """Set up a Prefect server to run the flows: work pool, deployments, and an end for runs whose process died.

    Once per server, and again after an update. Runs work in the folder in which their worker is started.
    """
    from athanor.flows.server.prepare import prepare_server

    created, deployments = prepare_server()
    print(f"created {', '.join(created)}" if created else "work pool and automation are there already")
    print(f"{deployments} deployments are up to date: `prefect deployment ls`, `prefect worker start --pool athanor`")
    print("a worker's runs work in the folder in which it is started and keep all in its ATHANOR_HOME or ./.athanor")


app.add_typer(plan_command.app)
app.add_typer(model_commands.app)
app.add_typer(data_commands.app)
app.add_typer(runs_commands.app, name="runs")


def main() -> None:
    """Entry point: a mistake of the user's is one line on stderr, several are one line each; exit status 2."""
    _speak_utf8()
    gc.set_threshold(GC_ALLOCATIONS)
    try:
        app(standalone_mode=True)
    except UserError as error:
        _fail(str(error), 2)


def _speak_utf8() -> None:
    """Start again in Python's UTF-8 mode where the locale is another (C, Latin-1): names of files and what is printed
    are then what they are, here and in every process that is started from here."""
    if sys.getfilesystemencoding() != "utf-8":
        os.environ["PYTHONUTF8"] = "1"
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


@contextmanager
def _interruptible() -> Iterator[None]:
    """Whatever a Ctrl-C becomes on its way through libraries (pydantic makes an error of its own of it) is one line."""
    interrupted = []

    def interrupt(number: int, frame: FrameType | None) -> None:
        interrupted.append(number)
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGINT, interrupt)
    try:
        yield
    except BaseException:
        if not interrupted:
            raise
        _fail("interrupted; the same command continues where it stopped", INTERRUPTED)
    finally:
        signal.signal(signal.SIGINT, before)


def _fail(message: str, status: int) -> Any:
    for line in message.splitlines():
        print(f"athanor: {line}", file=sys.stderr)
    sys.exit(status)


if __name__ == "__main__":
    main()

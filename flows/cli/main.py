"""The `athanor` command: run presets, look at presets and artifacts.

Heavy packages are imported inside the commands, so that `athanor --help` answers at once.
"""

from __future__ import annotations

import errno
import gc
import json
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata
from types import FrameType
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from typer.exceptions import TyperException

from athanor.core.errors import UserError
from athanor.core.threads import SHARING_CORES
from athanor.flows.cli import (
    bench_commands,
    data_commands,
    kernel_commands,
    model_commands,
    new_command,
    plan_command,
    runs_commands,
    store_commands,
    task_commands,
)
from athanor.flows.cli.browser import open_page
from athanor.flows.cli.completing import artifacts_beginning, presets_beginning
from athanor.flows.cli.options import (
    BudgetHours,
    BudgetUsd,
    Only,
    PresetName,
    Settings,
    Sweep,
    flow_of,
    runs_asked,
)
from athanor.flows.cli.tables import print_table, table
from athanor.flows.cli.usage import usage_line

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)
INTERRUPTED = 130
NO_TELEMETRY = {"PREFECT_SERVER_ANALYTICS_ENABLED": "false", "DO_NOT_TRACK": "1"}
GC_ALLOCATIONS = 50_000  # between two collections: what is imported stays, and looking for garbage in it takes long


def _print_version(asked: bool) -> None:
    if asked:
        print(f"athanor {metadata.version('athanor')}")
        raise typer.Exit


@app.callback()
def athanor(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version and exit")
    ] = False,
) -> None:
    """Take a language model from raw text to an evaluated, explained checkpoint.

    Every stage leaves an artifact in the store (ATHANOR_HOME, default ./.athanor); what is there is never built twice.
    Start with `athanor run quickstart`, or with text of your own: `athanor new mine --from FILES`
    """


@app.command()
def run(
    preset: PresetName,
    only: Only = None,
    rebuild: Annotated[bool, typer.Option("--rebuild", help="Build the chosen part again, even if it is done")] = False,
    rebuild_drifted: Annotated[
        bool, typer.Option("--rebuild-drifted", help="Build again what other code than today's made")
    ] = False,
    verify: Annotated[bool, typer.Option("--verify", help="Compare every file's sha256, not only its size")] = False,
    budget_usd: BudgetUsd = None,
    budget_hours: BudgetHours = None,
    settings: Settings = None,
    sweep: Sweep = None,
    open_report: Annotated[bool, typer.Option("--open", help="Open the report in a browser when it is done")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", help="Show Prefect's own log")] = False,
) -> None:
    """Run a preset from raw text to its report card. The same command continues after any interruption.

    What `athanor plan` checks is checked first. A budget counts every second
    of every attempt made under it; what it cannot pay for is cut from the end
    of training, which still ends annealed.

    With --sweep one run follows the other, and what they share is built once:

    athanor run quickstart --sweep pretrain.peak_lr=1e-3,3e-3
    """
    for variable, value in NO_TELEMETRY.items():  # read when Prefect is first imported
        os.environ.setdefault(variable, value)
    from athanor.flows.cli.ending import print_comparison
    from athanor.flows.cli.run_flow import run_flow
    from athanor.flows.presets.preset import load_preset

    drifted = ["runtime.rebuild_drifted=true"] if rebuild_drifted else []
    with _interruptible():
        asked = runs_asked(settings, sweep, budget_usd, budget_hours)
        runs = {swept: load_preset(preset, [*overrides, *drifted]) for swept, overrides in asked.items()}
        pages = []
        for number, (swept, one) in enumerate(runs.items(), start=1):
            if sweep:
                print(f"run {number} of {len(runs)}: {swept}", file=sys.stderr, flush=True)
            pages.append(run_flow(flow_of(only), one, rebuild, verify, verbose))
    if sweep:
        print_comparison(Console(stderr=True), runs.values(), flow_of(only))
    for page in pages:
        if open_report and page is not None:
            open_page(page.as_uri())


@app.command()
def presets(
    name: Annotated[
        str | None,
        typer.Argument(metavar="[PRESET]", help="Show this preset whole, as YAML", autocompletion=presets_beginning),
    ] = None,
    settings: Settings = None,
) -> None:
    """List the presets, or print one as YAML to start your own from.

    What one of them costs, and its exact number of parameters: athanor plan PRESET
    """
    from athanor.flows.presets.names import preset_names
    from athanor.flows.presets.preset import load_preset

    if name is not None:
        print(load_preset(name, settings or ()).to_yaml(), end="")
        return
    listing = table("preset", "family", "tokens", prose="what it is")
    for preset in map(load_preset, preset_names()):
        tokens = preset.pretrain.steps * preset.pretrain.batch_tokens if preset.pretrain is not None else 0
        listing.add_row(preset.name, preset.model.family, f"{tokens:,}", escape(preset.description))
    print_table(listing)


@app.command()
def artifacts(
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object per line")] = False,
    verify: Annotated[bool, typer.Option("--verify", help="Compare every file's sha256, not only its size")] = False,
) -> None:
    """List what the store holds."""
    from athanor.core.numbers import duration, size
    from athanor.core.store import Store

    store = Store()
    listing = table("artifact", "size", "made in", "created", prose="state")
    for artifact in store.artifacts():
        problem = store.problem(artifact, verify=verify)
        manifest = artifact.manifest if problem is None else {}
        size_bytes = sum(entry["size"] for entry in manifest.get("files", {}).values())
        if as_json:
            print(json.dumps({"name": artifact.name, "path": str(artifact.path), "problem": problem, **manifest}))
        elif problem is None:
            row = (artifact.name, size(size_bytes), duration(manifest["wall_s"]), manifest["created"][:16], "whole")
            listing.add_row(*map(escape, row))
        else:
            listing.add_row(escape(artifact.name), "", "", "", escape(f"torn: {problem}"))
    if as_json:
        return
    if listing.row_count:
        print_table(listing)
    else:
        print(f"the store {store.root} is empty: try `athanor run quickstart`")


@app.command()
def show(
    artifact: Annotated[
        str,
        typer.Argument(help="Name, key or path of an artifact; a prefix is enough", autocompletion=artifacts_beginning),
    ],
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


app.add_typer(new_command.app)
app.add_typer(plan_command.app)
app.add_typer(model_commands.app)
app.add_typer(kernel_commands.app)
app.add_typer(data_commands.app)
app.add_typer(store_commands.app)
app.add_typer(task_commands.app)
app.add_typer(runs_commands.app, name="runs")
app.add_typer(bench_commands.app, name="bench")


def main() -> None:
    """Entry point: a mistake of the user's is one line on stderr, several are one line each; exit status 2."""
    _speak_utf8()
    gc.set_threshold(GC_ALLOCATIONS)
    for variable, value in SHARING_CORES.items():
        os.environ.setdefault(variable, value)
    try:
        sys.exit(app(standalone_mode=False) or 0)
    except TyperException as error:
        _fail(usage_line(error), 2)
    except UserError as error:
        _fail(str(error), 2)
    except KeyboardInterrupt:
        _fail("interrupted", INTERRUPTED)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES):
            raise
        from athanor.core.disk import home

        where = error.filename or f"ATHANOR_HOME ({home()}) or a temporary folder"
        _fail(f"{where} cannot be written to: {error.strerror}; free some space, or choose another folder", 2)


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

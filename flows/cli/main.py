"""The `athanor` command: run presets, look at presets and artifacts.

Heavy packages are imported inside the commands, so that `athanor --help` answers at once.
"""

from __future__ import annotations

import json
import os
import sys
from enum import StrEnum
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape

from athanor.core.errors import UserError
from athanor.flows.cli import data_commands, model_commands, plan_command, runs_commands
from athanor.flows.cli.plan_command import BudgetHours, BudgetUsd, budget_settings
from athanor.flows.cli.tables import table as _table
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


Part = StrEnum("Part", PARTS)  # what `athanor run --only` can be limited to

Setting = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Change one preset field, e.g. pretrain.steps=900; repeatable"),
]
PresetName = Annotated[str, typer.Argument(metavar="PRESET", help="A preset's name, or a YAML file of your own")]


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
    settings: Setting = None,
) -> None:
    """Run a preset from raw text to its report card. The same command continues after any interruption.

    What `athanor plan` checks is checked first. A budget counts every second of every attempt made under it; what it
    cannot pay for is cut from the end of training, which still ends annealed.
    """
    os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")  # read when Prefect is first imported
    from athanor.flows.cli.run_flow import run_flow
    from athanor.flows.presets.preset import load_preset

    overrides = [*(settings or ()), *budget_settings(budget_usd, budget_hours)]
    overrides += ["runtime.rebuild_drifted=true"] if rebuild_drifted else []
    try:
        run_flow(only.value if only else LIFECYCLE, load_preset(preset, overrides), rebuild=rebuild, verify=verify)
    except KeyboardInterrupt:
        _fail("interrupted; the same command continues where it stopped", INTERRUPTED)


@app.command()
def presets(
    name: Annotated[str | None, typer.Argument(metavar="[PRESET]", help="Show this preset whole, as YAML")] = None,
    settings: Setting = None,
) -> None:
    """List the presets, or print one as YAML to start your own from."""
    from athanor.flows.presets.preset import load_preset, preset_names

    if name is not None:
        print(load_preset(name, settings or ()).to_yaml(), end="")
        return
    table = _table("preset", "family", "parameters", "tokens", "what it is")
    from athanor.models.counts import parameter_counts

    for preset in map(load_preset, preset_names()):
        model = preset.model.model_copy(update={"vocab_size": preset.model.vocab_size or preset.tokenizer.vocab_size})
        tokens = preset.pretrain.steps * preset.pretrain.batch_tokens
        total = parameter_counts(model)["total"]
        table.add_row(preset.name, preset.model.family, f"{total:,}", f"{tokens:,}", escape(preset.description))
    Console().print(table)


@app.command()
def artifacts(
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object per line")] = False,
    verify: Annotated[bool, typer.Option("--verify", help="Compare every file's sha256, not only its size")] = False,
) -> None:
    """List what the store holds."""
    from athanor.core.numbers import duration, size
    from athanor.core.store import Store

    store = Store()
    table = _table("artifact", "state", "size", "made in", "created")
    for artifact in store.artifacts():
        problem = store.problem(artifact, verify=verify)
        manifest = artifact.manifest if problem is None else {}
        size_bytes = sum(entry["size"] for entry in manifest.get("files", {}).values())
        if as_json:
            print(json.dumps({"name": artifact.name, "path": str(artifact.path), "problem": problem, **manifest}))
        elif problem is None:
            row = (artifact.name, "whole", size(size_bytes), duration(manifest["wall_s"]), manifest["created"])
            table.add_row(*map(escape, row))
        else:
            table.add_row(escape(artifact.name), escape(f"torn: {problem}"), "", "", "")
    if not as_json:
        Console().print(table if table.row_count else f"the store {store.root} is empty: try `athanor run quickstart`")


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
    try:
        app(standalone_mode=True)
    except UserError as error:
        _fail(str(error), 2)


def _fail(message: str, status: int) -> Any:
    for line in message.splitlines():
        print(f"athanor: {line}", file=sys.stderr)
    sys.exit(status)


if __name__ == "__main__":
    main()

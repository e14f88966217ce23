"""The command `athanor plan`. Heavy packages are imported inside it, as in flows/cli/main.py."""

from __future__ import annotations

import json
import logging
from typing import Annotated

import typer

from athanor.flows.cli.options import BudgetHours, BudgetUsd, Only, PresetName, Settings, Sweep, flow_of, runs_asked

app = typer.Typer()


@app.command()
def plan(
    preset: PresetName,
    only: Only = None,
    on: Annotated[
        str | None, typer.Option(metavar="GPU", help="Plan for a GPU that is not here, e.g. H100, before renting it")
    ] = None,
    budget_usd: BudgetUsd = None,
    budget_hours: BudgetHours = None,
    settings: Settings = None,
    sweep: Sweep = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="One JSON object with every number, on a line for each run of a sweep")
    ] = False,
) -> None:
    """Say what a run would do, what it costs and whether it can succeed.

    Nothing is built or downloaded. Each artifact is cached, resumes, or runs,
    and why: the fields in which it differs from the nearest one of its kind.

    Times are measured in earlier runs, timed here, or assumed; the table says
    which. Prices stand in flows/plan/prices.yaml; yours go into
    ATHANOR_HOME/prices.yaml, written as H100: {usd_per_hour: 2.5}.

    --only and --sweep plan what `athanor run` with the same would do; what
    several runs of a sweep share counts once.

    Hub data sets and tokenizers that are still to be read are asked for
    access. If the run would fail, the exit status is 2 and each reason is one
    line.
    """
    from rich.console import Console

    from athanor.core.errors import UserError
    from athanor.flows.cli.plan_table import print_plan, print_sweep
    from athanor.flows.plan.plan import make_plan, plan_json
    from athanor.flows.presets.preset import load_preset

    logging.getLogger("httpx").setLevel(logging.WARNING)
    plans = {
        swept: make_plan(load_preset(preset, overrides), flow_of(only), on)
        for swept, overrides in runs_asked(settings, sweep, budget_usd, budget_hours).items()
    }
    if as_json:
        for made in plans.values():
            print(json.dumps(plan_json(made), indent=None if sweep else 1))
    elif sweep:
        print_sweep(plans, Console())
    else:
        print_plan(plans[""], Console())
    errors = dict.fromkeys(f"{found.subject}: {found.message}" for made in plans.values() for found in made.errors)
    if errors:
        raise UserError("\n".join(errors))

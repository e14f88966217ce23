"""The command `athanor plan`. Heavy packages are imported inside it, as in flows/cli/main.py."""

from __future__ import annotations

import json
import logging
from typing import Annotated

import typer

from athanor.flows.cli.options import BudgetHours, BudgetUsd, Only, PresetName, Settings, budget_settings, flow_of

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
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object with every number")] = False,
) -> None:
    """Say what a run would do, what it costs and whether it can succeed.

    Nothing is built or downloaded. Each artifact is cached, resumes, or runs,
    and why: the fields in which it differs from the nearest one of its kind.

    Times are measured in earlier runs, timed here, or assumed; the table says
    which. Prices stand in flows/plan/prices.yaml; yours go into
    ATHANOR_HOME/prices.yaml, written as H100: {usd_per_hour: 2.5}.

    --only plans what `athanor run` with the same --only would do.

    Hub data sets and tokenizers that are still to be read are asked for
    access. If the run would fail, the exit status is 2 and each reason is one
    line.
    """
    from rich.console import Console

    from athanor.core.errors import UserError
    from athanor.flows.cli.plan_table import print_plan
    from athanor.flows.plan.plan import make_plan, plan_json
    from athanor.flows.presets.preset import load_preset

    logging.getLogger("httpx").setLevel(logging.WARNING)
    overrides = [*(settings or ()), *budget_settings(budget_usd, budget_hours)]
    made = make_plan(load_preset(preset, overrides), flow_of(only), on)
    if as_json:
        print(json.dumps(plan_json(made), indent=1))
    else:
        print_plan(made, Console())
    if made.errors:
        raise UserError("\n".join(f"{finding.subject}: {finding.message}" for finding in made.errors))

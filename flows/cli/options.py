"""The arguments and options that several commands share."""

from __future__ import annotations

import math
from enum import StrEnum
from typing import Annotated

import typer

from athanor.core.errors import UserError
from athanor.flows.cli.completing import fields_beginning, presets_beginning
from athanor.tasks.parts import LIFECYCLE, PARTS

PresetName = Annotated[
    str,
    typer.Argument(
        metavar="PRESET", help="A preset's name, or a YAML file of your own", autocompletion=presets_beginning
    ),
]
Part = StrEnum("Part", PARTS)  # what a command can be limited to
Only = Annotated[Part | None, typer.Option(help="Only this part; what it needs is found or built")]
Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Change one preset field, e.g. pretrain.steps=900; repeatable",
        autocompletion=fields_beginning,
    ),
]
Sweep = Annotated[
    list[str] | None,
    typer.Option(
        metavar="KEY=A,B",
        help="One run for each value, in turn, e.g. model.n_layers=2,4; repeatable, for every combination; a comma in "
        "brackets or quotes is part of a value; a budget is shared out evenly",
        autocompletion=fields_beginning,
    ),
]
BudgetUsd = Annotated[
    float | None,
    typer.Option(metavar="USD", help="What the lifecycle may cost over all attempts; training ends annealed inside it"),
]
BudgetHours = Annotated[float | None, typer.Option(metavar="HOURS", help="The same in hours of this machine")]


def flow_of(only: Part | None) -> str:
    """The flow that a command is limited to; the whole lifecycle where it is not."""
    return only.value if only else LIFECYCLE


def runs_asked(
    settings: list[str] | None, sweep: list[str] | None, usd: float | None, hours: float | None
) -> dict[str, list[str]]:
    """What is swept, for people -> the overrides of that run; a single one, called nothing, without a sweep."""
    from athanor.flows.presets.sweep import settings_of

    swept = settings_of(sweep or ())
    budget = {"budget_usd": usd, "budget_hours": hours}
    for name, value in budget.items():
        if value is not None and not 0 < value < math.inf:
            raise UserError(f"--{name.replace('_', '-')} {value:g}: give a number above 0")
    shared = [f"runtime.{name}={value / len(swept)}" for name, value in budget.items() if value is not None]
    return {" ".join(values): [*(settings or ()), *values, *shared] for values in swept}

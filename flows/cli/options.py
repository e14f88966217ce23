"""The arguments and options that several commands share."""

from __future__ import annotations

from typing import Annotated

import typer

PresetName = Annotated[str, typer.Argument(metavar="PRESET", help="A preset's name, or a YAML file of your own")]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Change one preset field, e.g. pretrain.steps=900; repeatable"),
]
BudgetUsd = Annotated[
    float | None,
    typer.Option(metavar="USD", help="What the lifecycle may cost over all attempts; training ends annealed inside it"),
]
BudgetHours = Annotated[float | None, typer.Option(metavar="HOURS", help="The same in hours of this machine")]


def budget_settings(usd: float | None, hours: float | None) -> list[str]:
    """The two budget options as overrides of the preset."""
    given = {"budget_usd": usd, "budget_hours": hours}
    return [f"runtime.{name}={value}" for name, value in given.items() if value is not None]

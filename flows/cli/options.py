"""The arguments and options that several commands share."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from athanor.tasks.parts import LIFECYCLE, PARTS


def presets_beginning(incomplete: str) -> list[str]:
    """The names that the shell completes; where none fits, it completes files of its own accord."""
    from athanor.flows.presets.preset import preset_names

    return [name for name in preset_names() if name.startswith(incomplete)]


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
    typer.Option("--set", metavar="KEY=VALUE", help="Change one preset field, e.g. pretrain.steps=900; repeatable"),
]
BudgetUsd = Annotated[
    float | None,
    typer.Option(metavar="USD", help="What the lifecycle may cost over all attempts; training ends annealed inside it"),
]
BudgetHours = Annotated[float | None, typer.Option(metavar="HOURS", help="The same in hours of this machine")]


def flow_of(only: Part | None) -> str:
    """The flow that a command is limited to; the whole lifecycle where it is not."""
    return only.value if only else LIFECYCLE


def budget_settings(usd: float | None, hours: float | None) -> list[str]:
    """The two budget options as overrides of the preset."""
    given = {"budget_usd": usd, "budget_hours": hours}
    return [f"runtime.{name}={value}" for name, value in given.items() if value is not None]

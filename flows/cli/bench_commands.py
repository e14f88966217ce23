"""The commands `athanor bench ...`: how fast things are, measured or counted.

Heavy packages are imported inside them, as in flows/cli/main.py.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from athanor.flows.cli.completing import presets_beginning
from athanor.flows.cli.options import Settings
from athanor.flows.cli.tables import print_table, table

if TYPE_CHECKING:
    from athanor.flows.plan.counted_step import CountedStep

app = typer.Typer(no_args_is_help=True)


@app.callback()
def bench() -> None:
    """How fast things are, measured or counted."""


@app.command()
def roofline(
    preset: Annotated[
        str,
        typer.Argument(
            metavar="[PRESET]", help="A preset's name, or a YAML file of your own", autocompletion=presets_beginning
        ),
    ] = "polychromatic-600m",
    on: Annotated[str, typer.Option(metavar="GPU", help="The GPU it is counted for, e.g. A100")] = "H100",
    settings: Settings = None,
    json_file: Annotated[
        Path | None, typer.Option("--json", metavar="OUT", help="Write all numbers, op by op, to this file")
    ] = None,
) -> None:
    """Predict a training step on a GPU that is not here, op by op.

    The model's own code runs forward and backward on tensors without storage.
    Every operation takes the time of its bytes or of its products, whichever
    is longer, and a launch at least; what is assumed of the GPU stands in
    models/roofline.py and in the JSON. The code is taken as it runs eagerly,
    without the optimizer's update.
    """
    from athanor.flows.plan.counted_step import counted_step
    from athanor.flows.presets.preset import load_preset

    step = counted_step(load_preset(preset, settings or ()), on)
    if json_file is not None:
        json_file.write_text(json.dumps(step.json(), indent=1) + "\n", encoding="utf-8")
    _print(step, Console())


def _print(step: CountedStep, console: Console) -> None:
    from athanor.core.numbers import duration, quantity, share, size

    one, ranks = step.micro_batch, f"{step.ranks} x " if step.ranks > 1 else ""
    lines = (
        f"[bold]{step.preset}[/] on {ranks}{step.gpu}: a step of {step.tokens:,} tokens, "
        f"{step.rows:,} x {step.seq_len_tokens:,} at a time",
        f"step     {duration(step.time_s)}, {step.tokens_per_s:,.0f} tokens/s, "
        f"{share(one.utilisation)} of the bf16 peak",
        f"launches {one.launches:,} a micro-batch; the host waits {one.host_reads:,} times for a value\n",
    )
    for line in lines:
        console.print(line, highlight=False, soft_wrap=True)
    listing = table("kind", "share", "time", "launches", "bytes", "FLOPs")
    for kind, spent in one.by_kind.items():
        flops = quantity(spent.flops) if spent.flops else ""
        part = share(spent.time_s / one.time_s)
        listing.add_row(kind, part, duration(spent.time_s), f"{spent.launches:,}", size(spent.bytes), flops)
    print_table(listing, console if console.is_terminal else None)

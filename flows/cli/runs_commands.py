"""`athanor runs`: what the training runs did, from the metrics database.

Every command first takes up what the runs' own logs say and the database does not. Heavy packages are imported inside
the commands, as in flows/cli/main.py.
"""

from __future__ import annotations

import json
import shutil
import sqlite3
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from athanor.core.errors import UserError
from athanor.flows.cli.completing import runs_beginning
from athanor.flows.cli.tables import print_table, table

if TYPE_CHECKING:
    from athanor.reports.curves import Curve
    from athanor.tasks.runs.read import Milestone

PLOT_LINES = 16

app = typer.Typer(
    help="What the training runs did: losses, evaluations, routing, costs, of every run in one place.\n\n"
    "All of it lies in ATHANOR_HOME/runs.sqlite, written while the runs go. RUN is a run's name as `athanor runs list` "
    "shows it; a prefix of it, or of its last part, is enough.",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

RunName = Annotated[
    str,
    typer.Argument(metavar="RUN", help="A run; a prefix of its name is enough", autocompletion=runs_beginning),
]
PngFile = Annotated[Path | None, typer.Option("--png", metavar="FILE", help="Also draw the figure into this file")]
HtmlFile = Annotated[
    Path | None, typer.Option("--html", metavar="FILE", help="Also write a page: differences, curves, scores, verdicts")
]


@app.command("list")
def list_runs() -> None:
    """List every run, the newest last: how far it is, its loss, its best held-out bits per byte, what it cost.

    complete: the model is in the store. running: a process is training it now. stopped: `athanor run` continues it.
    deleted: its folder is gone; `athanor runs rebuild` forgets it.
    """
    from athanor.core.numbers import compact, money
    from athanor.tasks.runs import read

    listing = table("run", "state", "step", "loss", "best bits/byte", "parameters", "cost", "started", "family")
    with _database() as db:
        for row in read.overview(db):
            listing.add_row(
                escape(row["name"]),
                read.state_now(row),
                f"{row['step']:,}/{row['steps_planned']:,}",
                _figure(row["loss"]),
                _figure(row["best_bits_per_byte"]),
                compact(row["parameters"]),
                money(row["usd"] or None),
                _when(row["started"]),
                row["family"],
            )
    print_table(listing)


@app.command()
def show(run: RunName, png: PngFile = None) -> None:
    """Show one run: loss at the milestones and its averages, evaluations, benchmarks, routing, costs, events, a plot.

    The averages are exponential ones (EMA) that keep 0.99, 0.999 and 0.9999 of themselves at each step: over about the
    last 100, 1,000 and 10,000 steps, each corrected for its start.
    """
    from athanor.core.numbers import compact, duration, money
    from athanor.tasks.runs import read

    with _database() as db:
        row = read.find_run(db, run)
        tokens, spent = compact(row["tokens"]), money(row["usd"]) if row["usd"] else "price unknown"
        print(f"{row['name']}: {row['family']}, {compact(row['parameters'])} parameters, {read.state_now(row)}")
        print(f"step {row['step']:,} of {row['steps_planned']:,}, {tokens} tokens, started {_when(row['started'])}")
        print(f"{duration(row['device_s'] or 0.0)} of device time, {spent}")
        _section("milestones", _milestone_table(read.milestones(db, row["run"])))
        for title, columns, rows in read.sections(db, row["run"]):
            _section(title, _rows_table(columns, rows))
        _draw([read.curve(db, row)], png)


@app.command()
def compare(
    runs: Annotated[
        list[str],
        typer.Argument(
            metavar="RUN RUN...",
            help="The runs; a prefix of each name is enough",
            autocompletion=runs_beginning,
        ),
    ],
    png: PngFile = None,
    html: Annotated[
        Path | None,
        typer.Option(
            "--html", metavar="FILE", help="Also write a page: what differs, curves, figures, scores, verdicts"
        ),
    ] = None,
) -> None:
    """Lay runs beside one another: averaged loss at the same steps, best evaluations, speed, cost, and one plot.

    Losses are exponential moving averages that keep 0.99 of themselves at each step, corrected for their start: at step
    30 the mean of all thirty, the last counting most. They compare only with the same tokenizer, bits per byte always.
    """
    from athanor.reports.canvas import LETTERS
    from athanor.reports.compared import cautions, side_by_side
    from athanor.tasks.runs import read
    from athanor.tasks.runs.compare import compared

    with _database() as db:
        rows = list({row["run"]: row for row in (read.find_run(db, run) for run in runs)}.values())
        if not 2 <= len(rows) <= len(LETTERS):
            raise UserError(f"compare needs two runs or more, {len(LETTERS)} at most; see `athanor runs list`")
        found = compared(db, rows)
    letters = LETTERS[: len(found)]
    for letter, run in zip(letters, found, strict=True):
        print(f"{letter}  {run.name}")
    listing = table("", *letters)
    for name, cells in side_by_side(found, read.KEEPS[0]):
        listing.add_row(escape(name), *cells)
    print_table(listing)
    for said in cautions(found):
        print(said)
    _draw([run.curve for run in found], png)
    if html is not None:
        from athanor.reports.comparison_page import comparison_page

        _write("--html", html, comparison_page(found, read.KEEPS[0]).encode())


@app.command()
def query(
    sql: Annotated[str, typer.Argument(metavar="SQL", help="One SELECT")],
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object per line")] = False,
) -> None:
    """Ask the database in SQL. Nothing can be changed through it.

    Tables: runs, steps, details, held_out, benchmarks, events, costs. Views: overview (one line a run), routing,
    schedule, mix, best. Their columns: athanor runs query "select sql from sqlite_schema"

    athanor runs query "select run, step, loss from steps where step = 500"

    athanor runs query "select step, value from routing where name = 'static_entropy' and run = '0123456789ab'"

    ema(x, keep) averages exponentially:

    athanor runs query "select run, step, ema(loss, 0.99) over (partition by run order by step) from steps"
    """
    from athanor.tasks.runs import read

    with _database() as db:
        columns, rows = read.query(db, sql)
    if as_json:
        for row in rows:
            print(json.dumps(dict(zip(columns, row, strict=True)), ensure_ascii=False, default=repr))
        return
    print_table(_rows_table(columns, rows))


@app.command()
def rebuild() -> None:
    """Make the database anew from the logs of the runs in the store; runs that were deleted are forgotten.

    Needed when a warning said that it could not be written, or when it is damaged. Safe while runs go on.
    """
    from athanor.core.store import Store
    from athanor.tasks.runs.follow import rebuild
    from athanor.tasks.runs.schema import database_path

    database_path().parent.mkdir(parents=True, exist_ok=True)
    try:
        rows = rebuild(Store())
    except (sqlite3.Error, OSError) as error:
        raise UserError(f"{database_path()} cannot be written: {error}") from None
    print(f"rebuilt {database_path()}: " + ", ".join(f"{count:,} {name}" for name, count in rows.items()))


@contextmanager
def _database() -> Iterator[sqlite3.Connection]:
    """The database, brought up to date if it can be; a line on stderr says if it cannot."""
    from athanor.core.store import Store
    from athanor.tasks.runs.follow import catch_up, complaint
    from athanor.tasks.runs.read import reading

    try:
        catch_up(Store())
    except Exception as error:
        print(f"athanor: {complaint(error)}", file=sys.stderr)
    with reading() as db:
        yield db


def _milestone_table(milestones: list[Milestone]) -> Table:
    from athanor.core.numbers import compact, money
    from athanor.tasks.runs.read import KEEPS

    made = table("step", "tokens", "loss", *(f"EMA {keep}" for keep in KEEPS), "learning rate", "grad norm", "cost")
    for at in milestones:
        losses = (_figure(value) for value in (at.loss, *at.ema))
        rest = (_figure(at.lr, 3), _figure(at.grad_norm, 3), money(at.cost_usd or None))
        made.add_row(f"{at.step:,}", compact(at.tokens), *losses, *rest)
    return made


def _rows_table(columns: list[str], rows: list[sqlite3.Row]) -> Table:
    from athanor.core.text import clean

    made = table(*(escape(column) for column in columns))
    for row in rows:
        cells = (_figure(cell) if isinstance(cell, float) else "" if cell is None else str(cell) for cell in row)
        made.add_row(*(escape(clean(cell)) for cell in cells))
    return made


def _section(title: str, content: Table) -> None:
    if content.row_count:
        print(f"\n{title}")
        print_table(content)


def _draw(curves: list[Curve], png: Path | None) -> None:
    """The plot on the terminal and, if asked for, the figure as a file."""
    from athanor.reports.terminal import terminal_plot

    width = min(shutil.get_terminal_size((100, 24)).columns, 160)
    if plot := terminal_plot(curves, width, PLOT_LINES, colour=Console().is_terminal):
        print(f"\n{plot}")
    if png is not None:
        from athanor.reports.comparison import comparison_figure

        _write("--png", png, comparison_figure(curves).png)


def _write(option: str, path: Path, content: bytes) -> None:
    try:
        path.write_bytes(content)
    except OSError as error:
        raise UserError(f"{option} {path}: {error.strerror}") from None
    print(f"wrote {path}")


def _figure(value: float | None, digits: int = 4) -> str:
    from athanor.core.numbers import number

    return number(value, digits)


def _when(unix_s: float | None) -> str:
    return "–" if unix_s is None else f"{datetime.fromtimestamp(unix_s):%Y-%m-%d %H:%M}"

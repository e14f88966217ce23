"""The look of every table the command line prints: as wide as the terminal at most, and no name is ever folded.

Where the width does not suffice, whole columns are left out, the last first, and a line says which; a column of prose
folds instead. What is piped has all of its columns, as wide as they are.
"""

from __future__ import annotations

from rich.console import Console
from rich.markup import escape
from rich.measure import Measurement
from rich.table import Column, Table

PROSE_WIDTH = 24  # of a column that folds, at least
UNBOUNDED = 100_000


def table(*columns: str, prose: str | None = None) -> Table:
    """An empty table without lines; `prose` is a last column whose cells may fold."""
    made = Table(box=None, header_style="bold", pad_edge=False)
    for column in columns:
        made.add_column(column, no_wrap=True, overflow="ignore")
    if prose is not None:
        made.add_column(prose, min_width=PROSE_WIDTH, overflow="fold")
    return made


def print_table(listing: Table, console: Console | None = None) -> None:
    """Print a table, without the columns there is no room for on the terminal, or on the console that is given."""
    if console is None:
        console = Console()
        if not console.is_terminal:
            Console(file=console.file, width=UNBOUNDED).print(listing)
            return
    every = list(listing.columns)
    while len(listing.columns) > 1 and _least_width(listing, console) > console.width:
        foldable = [column for column in listing.columns[1:] if _folds(column)]
        rigid = [column for column in listing.columns[1:] if not _folds(column)]
        listing.columns.remove((rigid or foldable)[-1])
    if len(listing.columns) > 1:
        console.print(listing)
    else:  # the terminal itself continues what is too long, and it can still be copied
        for cell in (f"[bold]{every[0].header}[/]", *every[0].cells):
            console.print(cell, soft_wrap=True, highlight=False)
    if left_out := [str(column.header) for column in every if column not in listing.columns]:
        names = escape(", ".join(left_out))
        console.print(f"[dim]left out: {names}; a wider terminal shows all, and so does a pipe[/]", highlight=False)


def _least_width(listing: Table, console: Console) -> int:
    """What a table needs: its names and numbers whole, PROSE_WIDTH of its prose."""
    wide = console.options.update(width=UNBOUNDED)
    whole = Measurement.get(console, wide, listing).maximum
    return whole - sum(max(0, _width(column, console) - PROSE_WIDTH) for column in listing.columns if _folds(column))


def _width(column: Column, console: Console) -> int:
    wide = console.options.update(width=UNBOUNDED)
    return max(Measurement.get(console, wide, cell).maximum for cell in (column.header, *column.cells))


def _folds(column: Column) -> bool:
    return not column.no_wrap

"""The look of every table the command line prints."""

from __future__ import annotations

from rich.table import Table


def table(*columns: str) -> Table:
    """An empty table without lines; long cells fold."""
    made = Table(box=None, header_style="bold", pad_edge=False)
    for column in columns:
        made.add_column(column, overflow="fold")
    return made

"""A table is as wide as the terminal at most, folds no name, and says which columns it leaves out."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from athanor.flows.cli.tables import print_table, table

NAME = "evaluate/sums-and-differences-to-20-base-0123456789ab"
WORDS = "words that may stand on several lines"


@pytest.fixture
def lines():
    """The lines of a table on a terminal of some width, or of none."""

    def of(width: int | None) -> list[str]:
        listing = table("artifact", "size", "made in", prose="why")
        listing.add_row(NAME, "1.60 kB", "16.1 s", WORDS)
        out = io.StringIO()
        if width is None:
            console = None
        else:
            console = Console(file=out, width=width, force_terminal=True, color_system=None, legacy_windows=False)
        print_table(listing, console)
        return out.getvalue().splitlines()

    return of


@pytest.mark.parametrize(
    ("width", "left_out"), [(100, ""), (97, ""), (92, "made in"), (82, "size, made in"), (60, "size, made in, why")]
)
def test_columns_are_left_out_whole_and_named(lines, width, left_out):
    found = lines(width)
    assert max(map(len, found)) <= width
    assert any(NAME in line for line in found)
    said = " ".join(line.strip() for line in found)
    assert (f"left out: {left_out};" in said) == bool(left_out)
    assert ("left out" in said) == bool(left_out)
    assert ("why" in left_out) or all(word in said for word in WORDS.split())


def test_a_name_wider_than_the_terminal_is_left_to_it(lines):
    assert NAME in lines(30)


def test_what_is_piped_has_every_column(lines, capsys):
    lines(None)
    out = capsys.readouterr().out
    assert len(out.splitlines()) == 2
    assert NAME in out and WORDS in out

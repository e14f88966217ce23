"""The recording in the README: real commands and what they print, as a picture. `make recording` makes it again.

The commands run one after another in an empty folder, on a store of their own, so what is seen is what a reader gets.
What they print goes through a pipe: plain lines, whatever the terminal. Of the many that a training prints the picture
shows the first and the last; it loads nothing from elsewhere.
"""

from __future__ import annotations

import io
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from tempfile import TemporaryDirectory

from rich.console import Console
from rich.text import Text

COMMANDS = (
    "athanor plan quickstart",
    "athanor run quickstart",
    'athanor generate sft/polychromatic "Ada has 3 eggs and buys 4. How many has she?" --chat',
)
COLUMNS = 104
PICTURE = Path(__file__).parent.parent / "reports" / "recording.svg"


def record(commands: Sequence[str], folder: Path) -> list[tuple[str, str]]:
    """Each command with what it printed in `folder`, written as ~. Raises CalledProcessError where one fails."""
    outside = {name: value for name, value in os.environ.items() if not name.startswith(("ATHANOR_", "PREFECT_"))}
    environment = {**outside, "COLUMNS": str(COLUMNS), "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    printed = []
    for command in commands:
        words, err = shlex.split(command), subprocess.STDOUT
        done = subprocess.run(words, cwd=folder, env=environment, check=True, stdout=subprocess.PIPE, stderr=err)
        printed.append((command, done.stdout.decode().replace(str(folder), "~")))
    return printed


def shortened(output: str) -> str:
    """The output with dots in place of each row of steps between its first and its last."""
    kept: list[str] = []
    for steps, lines in groupby(output.splitlines(), lambda line: re.search(r": step \d", line) is not None):
        said = list(lines)
        kept += [said[0], "    ...", said[-1]] if steps and len(said) > 3 else said
    return "\n".join(kept)


def picture(printed: Sequence[tuple[str, str]]) -> str:
    """The commands and their output as an SVG."""
    console = Console(record=True, width=COLUMNS, file=io.StringIO(), force_terminal=True, legacy_windows=False)
    for command, output in printed:
        console.print(Text("$ ", style="bold green") + Text(command, style="bold"))
        console.print(Text.from_ansi(shortened(output)))
        console.print()
    svg = console.export_svg(title="athanor", unique_id="recording")
    return re.sub(r"@font-face \{.*?\}\s*", "", svg, flags=re.DOTALL)


if __name__ == "__main__":
    with TemporaryDirectory() as empty:
        PICTURE.write_text(picture(record(COMMANDS, Path(empty))), encoding="utf-8")
    print(PICTURE)

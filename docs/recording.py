"""The recording in the README: real commands and what they print, as a picture. `make recording` makes it again.

A newcomer's first quarter of an hour: a folder of notes and a file of conversations become a preset, a model and a
report, and another checkpoint is judged. The notes are Python's documentation, for every machine has it; the other
checkpoint is the model before it was fine-tuned. The commands run one after another on a store of their own, so what is
seen is what a reader gets.
What they print goes through a pipe: plain lines, whatever the terminal. Of the many that a training prints the picture
shows the first and the last; it loads nothing from elsewhere.
"""

from __future__ import annotations

import io
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Sequence
from itertools import groupby, islice
from pathlib import Path
from tempfile import TemporaryDirectory

from rich.console import Console
from rich.text import Text

from athanor.data.sources.records import Raw
from athanor.data.sources.stdlib import read_stdlib_docs
from athanor.data.sources.word_problems import generate

COMMANDS = (
    "ls",
    "athanor new mine --from notes --chat chats.jsonl --minutes 4",
    "athanor run mine.yaml",
    'athanor generate mine "Ada has 3 eggs and buys 4. How many has she?" --chat',
    "cat judged.yaml",
    "athanor run judged.yaml",
)
JUDGED = "model: {checkpoint: pretrain/mine}\nevaluate: {tasks: {sums: {name: word_problems, limit: 200}}}\n"
NOTES, CHATS = 400, 4_000
COLUMNS = 104
PICTURE = Path(__file__).parent.parent / "reports" / "recording.svg"


def write_texts(folder: Path) -> None:
    """What the newcomer has: notes, conversations, and a preset for a checkpoint of somebody else's."""
    (folder / "notes").mkdir()
    documents = (raw.content for raw in read_stdlib_docs() if isinstance(raw, Raw))
    for number, text in enumerate(islice(documents, NOTES)):
        (folder / "notes" / f"{number:03}.txt").write_text(str(text), encoding="utf-8")
    with open(folder / "chats.jsonl", "w", encoding="utf-8") as chats:
        for problem in islice(generate(0, "train"), CHATS):
            chats.write(json.dumps({"prompt": problem.question, "completion": problem.answer}) + "\n")
    (folder / "judged.yaml").write_text(JUDGED, encoding="utf-8")


def record(commands: Sequence[str], folder: Path) -> list[tuple[str, str]]:
    """Each command with what it printed in `folder`, written as ~. Ends with what one said that fails."""
    outside = {name: value for name, value in os.environ.items() if not name.startswith(("ATHANOR_", "PREFECT_"))}
    environment = {**outside, "COLUMNS": str(COLUMNS), "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    printed = []
    for command in commands:
        words, err = shlex.split(command), subprocess.STDOUT
        done = subprocess.run(words, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=err)
        if done.returncode:
            sys.exit(f"{command} failed:\n{done.stdout.decode()}")
        printed.append((command, done.stdout.decode().replace(str(folder), "~")))
    return printed


def shortened(output: str) -> str:
    """The output with dots in place of what lies between the first and the last of a row of steps, or of empty lines:
    a model of a few minutes may say little else."""
    kept: list[str] = []
    for long, lines in groupby(output.splitlines(), lambda line: not line or re.search(r": step \d", line) is not None):
        said = list(lines)
        kept += [said[0], "    ...", said[-1]] if long and len(said) > 3 else said
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
        write_texts(Path(empty))
        PICTURE.write_text(picture(record(COMMANDS, Path(empty))), encoding="utf-8")
    print(PICTURE)

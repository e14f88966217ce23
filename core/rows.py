"""Files of JSON rows that are appended to while others read them: `metrics.jsonl` and `ledger.jsonl`.

Invariant: a row is one line written by one `write` call. A crash can tear only the last line; a torn line is never
read as a row, and never joined to the row that follows it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from athanor.core.disk import fsync_path

Row = dict[str, Any]


def read_rows(path: Path) -> Iterator[Row]:
    """Every whole row of the file, in order; nothing when there is no such file."""
    if not path.exists():
        return
    with open(path, "rb") as file:
        for line in file:
            if (row := parse_row(line)) is not None:
                yield row


def parse_row(line: bytes) -> Row | None:
    """The row in a line, or None for a torn or empty one."""
    try:
        row = json.loads(line) if line.endswith(b"\n") else None
    except ValueError:
        return None
    return row if isinstance(row, dict) else None


def replace_rows(path: Path, rows: Iterable[Row]) -> None:
    """Replace the file's rows; a crash leaves the old file or the new one."""
    temporary = path.with_name(path.name + ".tmp")
    with open(temporary, "wb") as file:
        file.writelines(_line(row) for row in rows)
    fsync_path(temporary)
    os.replace(temporary, path)
    fsync_path(path.parent)


class RowWriter:
    """Appends rows to a file."""

    def __init__(self, path: Path):
        self._file = open(path, "ab+", buffering=0)  # noqa: SIM115  closed by close()
        if self._file.tell() and not _ends_with_newline(path):
            self._file.write(b"\n")

    def append(self, row: Row) -> None:
        """Write one row; it survives this process at once and the machine after `sync`."""
        self._file.write(_line(row))

    def sync(self) -> None:
        """Flush to the disk."""
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Flush to the disk and close."""
        self.sync()
        self._file.close()


def _line(row: Row) -> bytes:
    return json.dumps(row, ensure_ascii=False).encode() + b"\n"


def _ends_with_newline(path: Path) -> bool:
    with open(path, "rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read(1) == b"\n"

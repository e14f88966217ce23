"""The sha256 of files that belong to the user, each hashed once for its content and remembered.

`<home>/digests.jsonl` says what a file was when it was hashed: its path, size and inode, and when its content and its
entry last changed. While all of these are the same so is the content: the kernel notes the last of them at every
change that is written, and no program can set it back (a program that keeps a file mapped into its memory writes when
it likes: let it end first). But clocks tick, and two changes within a tick look alike: what changed less
than RACY_S before it was hashed is not remembered, and is hashed again the next time.

Processes append whole lines side by side; a line that is torn or makes no sense is passed over, and what it said is
computed again. Nothing else depends on the file: it may be deleted at any time, and a home that cannot be written to
costs time alone.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from athanor.core.disk import home
from athanor.core.keys import sha256_file
from athanor.core.rows import Row, RowWriter, read_rows

RACY_S = 2.0  # the coarsest clock of the file systems in use
_SHA256 = re.compile("[0-9a-f]{64}")


class FileState(NamedTuple):
    """What stays the same while a file's content does; `path` is absolute and printable."""

    path: str
    size_bytes: int
    inode: int
    mtime_ns: int
    ctime_ns: int

    @classmethod
    def of(cls, path: Path) -> FileState:
        """The state now. Raises OSError for a file that is not there."""
        found = os.stat(path)
        name = os.fsencode(path.absolute()).decode("utf-8", "backslashreplace")
        return cls(name, found.st_size, found.st_ino, found.st_mtime_ns, found.st_ctime_ns)

    def settled(self, now_s: float) -> bool:
        """Whether a change from now on would show."""
        return max(self.mtime_ns, self.ctime_ns) < (now_s - RACY_S) * 1e9


def file_digests(paths: Sequence[Path]) -> list[tuple[int, str]]:
    """(size in bytes, hex sha256) of each file. Raises OSError for one that cannot be read."""
    states = [FileState.of(path) for path in paths]
    known: dict[FileState, str] = {}
    with suppress(OSError, RecursionError):
        known = {state: row["sha256"] for row in read_rows(_cache()) if (state := _remembered(row)) is not None}
    if new := {state: path for state, path in zip(states, paths, strict=True) if state not in known}:
        known |= _hash(new)
    return [(state.size_bytes, known[state]) for state in states]


def _hash(files: Mapping[FileState, Path]) -> dict[FileState, str]:
    """Hash the files, and remember those whose next change will show."""
    found: dict[FileState, str] = {}
    with _notes() as note:
        for state, path in files.items():
            began_s = time.time()
            found[state] = sha256_file(path)
            if state.settled(began_s):
                note({**state._asdict(), "sha256": found[state]})
    return found


def _remembered(row: Row) -> FileState | None:
    """The state a row is about; None for a row that makes no sense."""
    if row.keys() != {*FileState._fields, "sha256"} or not _SHA256.fullmatch(str(row["sha256"])):
        return None
    state = FileState(*(row[field] for field in FileState._fields))
    return state if isinstance(state.path, str) and all(type(number) is int for number in state[1:]) else None


@contextmanager
def _notes() -> Iterator[Callable[[Row], None]]:
    """A function that appends a row to the file; rows that cannot be written are lost."""
    try:
        home().mkdir(parents=True, exist_ok=True)
        writer = RowWriter(_cache())
    except OSError:
        yield lambda row: None
        return

    def note(row: Row) -> None:
        with suppress(OSError):
            writer.append(row)

    try:
        yield note
    finally:
        with suppress(OSError):
            writer.close()


def _cache() -> Path:
    return home() / "digests.jsonl"

"""The database follows the files: every row of `metrics.jsonl` and `ledger.jsonl` is read once, whoever reads it.

The flow that started a training process follows its run while it goes; any later reader takes up what was missed, such
as what an orphaned process wrote last. The process that trains never waits for the database.
A file that a resume rewrote is read again from its start, so that the database drops the rows the file dropped.
"""

from __future__ import annotations

import json
import os
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO

from pydantic import ValidationError

from athanor.core.rows import Row, parse_row
from athanor.core.run_files import LEDGER, METRICS, SPEC
from athanor.core.store import Artifact, Store
from athanor.tasks.runs.schema import STEP_COLUMNS, database_path, emptied, writing

RESULT = "result.json"
PARTIAL = ".partial"
EVERY_S = 5.0  # opening, writing and closing takes 2 ms of the time of a processor
PATIENCE_S = 1.0  # for another writer, whose transactions take milliseconds
Insert = Callable[[sqlite3.Connection, str, Row], None]


@dataclass(frozen=True)
class RunFolder:
    """The folder of a training run, being built (`.label-run.partial`) or published (`label-run`)."""

    path: Path

    @cached_property
    def spec(self) -> dict[str, Any]:
        """`run.json` as it lies there; one that another version wrote is read too."""
        return json.loads((self.path / SPEC).read_text(encoding="utf-8"))

    @property
    def run(self) -> str:
        """The run's name in the database: the first 12 digits of its key."""
        return self.spec["key"][:12]

    @cached_property
    def parameters(self) -> int | None:
        """Parameters of the model; None for a recipe that today's code does not understand. Imports torch."""
        from athanor.models.counts import parameter_counts
        from athanor.models.model_recipe import ModelRecipe

        try:
            return parameter_counts(ModelRecipe.model_validate(self.spec["model"]))["total"]
        except ValidationError:
            return None

    @property
    def published(self) -> bool:
        """Whether this is the finished artifact."""
        return not self.path.name.endswith(PARTIAL)

    @property
    def label(self) -> str:
        """The label in the artifact's name."""
        return self.path.name.removeprefix(".").removesuffix(PARTIAL).removesuffix(f"-{self.run}")


class Recorder:
    """Keeps the database up with one training process. `say` hears the one line about its failure, if it fails.

    Whatever goes wrong, training goes on; what could not be written is when the database can be written again.
    """

    def __init__(self, folder: Path, say: Callable[[str], None]):
        self._folder = RunFolder(folder)
        self._say = say
        self._said = False
        self._due = 0.0

    def tick(self) -> None:
        """Take up new rows, at most every EVERY_S."""
        if (now := time.monotonic()) >= self._due:
            self._due = now + EVERY_S
            self.record()

    def record(self) -> None:
        """Take up new rows now."""
        try:
            bring_up(self._folder)
        except Exception as error:
            if not self._said:
                self._said = True
                self._say(complaint(error))


def complaint(error: Exception) -> str:
    """One line for a database that cannot be written."""
    return (
        f"{database_path()} is not up to date ({type(error).__name__}: {str(error).partition(chr(10))[0]}); "
        "nothing is lost: `athanor runs rebuild` makes it from the runs' own logs"
    )


def record_benchmark(evaluation: str, model: Artifact, result: dict[str, Any], say: Callable[[str], None]) -> None:
    """Write the scores of a `result.json`; `evaluation` is the key of the artifact it belongs to. Those of a model that
    no run here made belong to none."""
    if not (model.path / SPEC).is_file():
        return
    try:
        bring_up(RunFolder(model.path))
        with writing(PATIENCE_S) as db:
            _insert_scores(db, model.key[:12], evaluation[:12], result)
    except Exception as error:
        say(complaint(error))


def catch_up(store: Store) -> None:
    """Bring the database up with every run and benchmark of the store; nothing is written when nothing is new.

    Raises sqlite3.Error or OSError when it cannot be written, UserError for tables of another version.
    """
    folders = run_folders(store)
    if not folders and not database_path().exists():
        return
    with writing(PATIENCE_S) as db:
        behind = [folder for folder in folders if _is_behind(db, folder)]
    for folder in behind:
        bring_up(folder)
    with writing(PATIENCE_S) as db:
        _take_up_benchmarks(db, store)


def rebuild(store: Store) -> dict[str, int]:
    """Make the database anew from the files in the store; rows of deleted runs go. Returns the rows by table."""
    folders = run_folders(store)
    for folder in folders:
        _ = folder.parameters
    with emptied() as db:
        for folder in folders:
            follow(db, folder)
        _take_up_benchmarks(db, store)
        return {
            table: db.execute(f"SELECT count(*) FROM {table}").fetchone()[0]
            for table in ("runs", "steps", "held_out", "benchmarks")
        }


def run_folders(store: Store) -> list[RunFolder]:
    """The folder of every run that has logged something; of two with one key the one written last."""
    found: dict[str, tuple[float, RunFolder]] = {}
    for spec in sorted(store.root.glob(f"*/*/{SPEC}")):
        folder = RunFolder(spec.parent)
        if folder.path.name.startswith(".") and folder.published:
            continue  # on its way to deletion
        try:
            written, run = (folder.path / METRICS).stat().st_mtime, folder.run
        except (OSError, ValueError, KeyError):
            continue
        found[run] = max(found.get(run, (0.0, folder)), (written, folder), key=lambda entry: entry[0])
    return [folder for _, folder in found.values()]


def bring_up(folder: RunFolder) -> None:
    """Take up what is new in the files of a run, in a transaction of its own. Raises as `writing` does."""
    with writing(PATIENCE_S) as db:
        if folder.run in _known_runs(db):
            follow(db, folder)
            return
    _ = folder.parameters  # seconds of imports, once, while the database is free
    with writing(PATIENCE_S) as db:
        follow(db, folder)


def follow(db: sqlite3.Connection, folder: RunFolder) -> None:
    """Take up what is new in the files of a run, within the caller's transaction."""
    _register(db, folder)
    for name, (tables, insert) in _FILES.items():
        _follow_file(db, folder.run, folder.path / name, tables, insert)


def _known_runs(db: sqlite3.Connection) -> set[str]:
    return {run for (run,) in db.execute("SELECT run FROM runs")}


def _is_behind(db: sqlite3.Connection, folder: RunFolder) -> bool:
    if db.execute("SELECT published FROM runs WHERE run = ?", (folder.run,)).fetchone() != (folder.published,):
        return True
    query = "SELECT inode, read_bytes FROM followed WHERE run = ? AND file = ?"
    for name in _FILES:
        path = folder.path / name
        if path.exists():
            now = path.stat()
            if db.execute(query, (folder.run, name)).fetchone() != (now.st_ino, now.st_size):
                return True
    return False


def _register(db: sqlite3.Connection, folder: RunFolder) -> None:
    if db.execute("SELECT 1 FROM runs WHERE run = ?", (folder.run,)).fetchone() is None:
        spec = folder.spec
        values = {
            "run": folder.run,
            "key": spec["key"],
            "name": f"{folder.path.parent.name}/{folder.label}-{folder.run}",
            "stage": spec["objective"],
            "label": folder.label,
            "family": spec["model"]["family"],
            "parameters": folder.parameters,
            "steps_planned": spec["train"]["steps"],
            "published": folder.published,
            "recipe": json.dumps({name: spec.get(name) for name in ("model", "train", "mixture")}),
        }
        db.execute(f"INSERT INTO runs ({', '.join(values)}) VALUES ({_marks(values)})", tuple(values.values()))
    db.execute("UPDATE runs SET published = ? WHERE run = ?", (folder.published, folder.run))


def _follow_file(db: sqlite3.Connection, run: str, path: Path, tables: tuple[str, ...], insert: Insert) -> None:
    if not path.exists():
        return
    with open(path, "rb") as file:
        inode = os.fstat(file.fileno()).st_ino
        place, last_line = _place(db, run, path.name, inode, file)
        if place == 0:
            for table in tables:
                db.execute(f"DELETE FROM {table} WHERE run = ?", (run,))
        file.seek(place)
        for line in _whole_lines(file):
            place, last_line = place + len(line), line
            if (row := parse_row(line)) is not None:
                insert(db, run, row)
    db.execute("REPLACE INTO followed VALUES (?, ?, ?, ?, ?)", (run, path.name, inode, place, last_line))


def _place(db: sqlite3.Connection, run: str, name: str, inode: int, file: BinaryIO) -> tuple[int, bytes]:
    """How far the file has been read and the last line read; 0 and nothing if it is not the file it was."""
    query = "SELECT inode, read_bytes, last_line FROM followed WHERE run = ? AND file = ?"
    known = db.execute(query, (run, name)).fetchone()
    if known is None or known[0] != inode:
        return 0, b""
    _, place, last_line = known
    file.seek(place - len(last_line))
    return (place, last_line) if file.read(len(last_line)) == last_line else (0, b"")


def _whole_lines(file: BinaryIO) -> Iterator[bytes]:
    for line in file:
        if not line.endswith(b"\n"):
            return
        yield line


def _insert_metric(db: sqlite3.Connection, run: str, row: Row) -> None:
    if row["kind"] == "step":
        values = (run, row["step"], *(row.get(column) for column in STEP_COLUMNS))
        db.execute(f"REPLACE INTO steps VALUES ({_marks(values)})", values)
        details = ((run, field, name, row["step"], value) for field, name, value in _details(row))
        db.executemany("REPLACE INTO details VALUES (?, ?, ?, ?, ?)", details)
    elif row["kind"] == "eval":
        for source, measured in row["held_out"].items():
            values = (measured.get(name) for name in ("loss", "bits_per_byte", "tokens"))
            db.execute("REPLACE INTO held_out VALUES (?, ?, ?, ?, ?, ?)", (run, row["step"], source, *values))
    elif row["kind"] == "event":
        values = (run, *_next(db, "events", "event", run), row["step"], row["message"], row.get("attempt"))
        db.execute("INSERT INTO events VALUES (?, ?, ?, ?, ?)", values)


def _details(row: Row) -> Iterator[tuple[str, str, object]]:
    """(field, name, value) of what has no column in `steps`; a value that is no number is kept as JSON."""
    for field, content in row.items():
        if field in ("kind", "step", *STEP_COLUMNS):
            continue
        for name, value in content.items() if isinstance(content, dict) else ((field, content),):
            yield field, name, value if isinstance(value, int | float | None) else json.dumps(value)


def _insert_cost(db: sqlite3.Connection, run: str, row: Row) -> None:
    values = (run, *_next(db, "costs", "entry", run), *(row[name] for name in ("attempt", "time", "device_s", "usd")))
    db.execute("INSERT INTO costs VALUES (?, ?, ?, ?, ?, ?)", values)


def _insert_scores(db: sqlite3.Connection, run: str, evaluation: str, result: dict[str, Any]) -> None:
    db.execute("DELETE FROM benchmarks WHERE run = ? AND evaluation = ?", (run, evaluation))
    fields = ("value", "ci_low", "ci_high", "n", "higher_is_better", "chance")
    for metric, score in result["metrics"].items():
        values = (run, evaluation, result["label"], metric, *(score.get(field) for field in fields))
        db.execute(f"INSERT INTO benchmarks VALUES ({_marks(values)})", values)


def _take_up_benchmarks(db: sqlite3.Connection, store: Store) -> None:
    """Scores of evaluate artifacts that the database lacks, of the models it knows."""
    runs = _known_runs(db)
    known = {evaluation for (evaluation,) in db.execute("SELECT DISTINCT evaluation FROM benchmarks")}
    for artifact in store.artifacts():
        evaluation = artifact.key[:12]
        if artifact.stage != "evaluate" or evaluation in known or store.problem(artifact) is not None:
            continue
        if (run := artifact.manifest["parents"]["model"][:12]) in runs:
            _insert_scores(db, run, evaluation, json.loads(artifact.file(RESULT).read_text(encoding="utf-8")))


def _next(db: sqlite3.Connection, table: str, column: str, run: str) -> tuple[int]:
    return db.execute(f"SELECT coalesce(max({column}), 0) + 1 FROM {table} WHERE run = ?", (run,)).fetchone()


def _marks(values: Iterable[object]) -> str:
    return ", ".join("?" for _ in values)


_FILES: dict[str, tuple[tuple[str, ...], Insert]] = {
    METRICS: (("steps", "details", "held_out", "events"), _insert_metric),
    LEDGER: (("costs",), _insert_cost),
}

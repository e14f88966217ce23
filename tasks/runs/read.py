"""Reading the metrics database: through a connection that can only read, with `ema` as one more SQL function.

    ema(loss, 0.999) OVER (PARTITION BY run ORDER BY step)

is the exponential moving average that keeps that share of itself at each step, corrected for its start:
m_t = sum_i k^(t-i) x_i / sum_i k^(t-i), over the finite x_i up to t (Kingma & Ba 2015, section 3).
"""

from __future__ import annotations

import difflib
import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from athanor.core.errors import UserError
from athanor.core.run_files import LOCK
from athanor.core.store import Store
from athanor.reports.curves import Curve, Ema, HeldOut
from athanor.tasks.runs.follow import PARTIAL
from athanor.tasks.runs.schema import VERSION, database_path

KEEPS = (0.99, 0.999, 0.9999)
MILESTONES = tuple(digit * 10**power for power in range(1, 8) for digit in (1, 2, 5) if (digit, power) != (2, 1))
_ALLOWED = {sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_FUNCTION, sqlite3.SQLITE_RECURSIVE}
_SUMMARY = """SELECT name,
    (SELECT value FROM {view} AS f WHERE f.run = :run AND f.name = s.name ORDER BY step LIMIT 1) AS first,
    (SELECT value FROM {view} AS f WHERE f.run = :run AND f.name = s.name ORDER BY step DESC LIMIT 1) AS last,
    min(value) AS lowest, max(value) AS highest, avg(value) AS mean
FROM {view} AS s WHERE run = :run GROUP BY name"""
_SECTIONS = {
    "held-out rows, bits per byte": """SELECT source, count(*) AS evaluations,
    (SELECT bits_per_byte FROM held_out AS f WHERE f.run = :run AND f.source = h.source ORDER BY step LIMIT 1) AS first,
    (SELECT bits_per_byte FROM held_out AS f WHERE f.run = :run AND f.source = h.source ORDER BY step DESC LIMIT 1)
        AS last,
    min(bits_per_byte) AS best, step AS at_step
FROM held_out AS h WHERE run = :run GROUP BY source""",
    "benchmarks": """SELECT task, metric, value, ci_low, ci_high, n, chance
FROM benchmarks WHERE run = :run ORDER BY task, metric""",
    "routing, auxiliary losses": _SUMMARY.format(view="routing"),
    "schedule": _SUMMARY.format(view="schedule"),
    "data mix": """SELECT source, sum(rows) AS rows,
    round(100.0 * sum(rows) / (SELECT sum(rows) FROM mix WHERE run = :run), 2) AS percent
FROM mix WHERE run = :run GROUP BY source""",
    "attempts": """SELECT attempt, datetime(min(time), 'unixepoch', 'localtime') AS started, sum(device_s) AS device_s,
    sum(usd) AS usd FROM costs WHERE run = :run GROUP BY attempt ORDER BY min(time)""",
    "events": "SELECT step, message FROM events WHERE run = :run ORDER BY event",
}
_REBUILD = "`athanor runs rebuild` makes it anew from the runs' own logs"


@dataclass(frozen=True)
class Milestone:
    """A step of a run: what was logged there, and the averages of the loss up to there by KEEPS."""

    step: int
    tokens: int | None
    loss: float | None
    ema: tuple[float | None, ...]
    lr: float | None
    grad_norm: float | None
    cost_usd: float | None


@contextmanager
def reading() -> Iterator[sqlite3.Connection]:
    """The database, for SELECT alone. Raises UserError, one line, when there is none or it cannot be read."""
    path = database_path()
    if not path.exists():
        raise UserError(f"no runs in {path.parent} yet: try `athanor run quickstart`")
    try:
        with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True, timeout=5.0)) as db:
            if db.execute("PRAGMA user_version").fetchone()[0] != VERSION:
                raise UserError(f"{path} was made by another version: {_REBUILD}")
            db.row_factory = sqlite3.Row
            window: Any = _EmaWindow
            db.create_window_function("ema", 2, window)
            db.set_authorizer(lambda action, *_: sqlite3.SQLITE_OK if action in _ALLOWED else sqlite3.SQLITE_DENY)
            yield db
    except sqlite3.DatabaseError as error:
        raise UserError(f"{path} cannot be read ({error}): {_REBUILD}") from None


class _EmaWindow:
    """`ema(value, keep)`, over a window that starts where its partition does."""

    def __init__(self) -> None:
        self._ema: Ema | None = None

    def step(self, value: float | None, keep: float) -> None:
        self._ema = self._ema or Ema(keep)
        if value is not None:
            self._ema.push(value)

    def inverse(self, *_: Any) -> None:
        raise ValueError("an average cannot forget what left its window")

    def value(self) -> float | None:
        return self._ema.mean if self._ema else None  # SQLite makes NULL of NaN

    finalize = value


def query(db: sqlite3.Connection, sql: str) -> tuple[list[str], list[sqlite3.Row]]:
    """Names of the columns, and the rows. Raises UserError, one line, for what is no single SELECT that works."""
    try:
        cursor = db.execute(sql)
        if cursor.description is None:
            raise UserError(f"query {sql!r:.60}: give one SELECT; tables and columns: {_SCHEMA_HINT}")
        return [column[0] for column in cursor.description], cursor.fetchall()
    except (sqlite3.Error, sqlite3.Warning) as error:
        said = str(error)
        if "authoriz" in said or "prohibited" in said:
            said = "only SELECT is allowed: the database is made from the runs' logs"
        elif "'inverse'" in said:
            said = "ema needs a window that starts with its partition: OVER (PARTITION BY run ORDER BY step)"
        elif "no such" in said:
            said = f"{said}; tables and columns: {_SCHEMA_HINT}"
        raise UserError(f"query: {' '.join(said.split())}") from None


_SCHEMA_HINT = 'athanor runs query "select sql from sqlite_schema"'


def overview(db: sqlite3.Connection) -> list[sqlite3.Row]:
    """One row a run, as in the view `overview`, the run started first at the top."""
    return db.execute("SELECT * FROM overview ORDER BY started, name").fetchall()


def find_run(db: sqlite3.Connection, text: str) -> sqlite3.Row:
    """The `overview` row of the one run whose name, or label-run, or run starts with `text`. UserError otherwise."""
    every = overview(db)
    called = {row["name"]: row for row in every}
    found = [r for r in every if any(n.startswith(text) for n in (r["name"], r["name"].partition("/")[2], r["run"]))]
    if len(found) == 1:
        return found[0]
    if found:
        near, what = [row["name"] for row in found], f"{len(found)} runs match {text!r}"
    else:
        short = {name.rpartition("-")[0]: name for name in called}
        close = difflib.get_close_matches(text, [*called, *short, *(row["run"] for row in every)], 3, 0.5)
        near = [short.get(name, name) for name in close] or list(called)[-3:]
        what = f"no run {text!r}"
    raise UserError(f"{what}: there is {', '.join(dict.fromkeys(near)) or 'none yet'}; see `athanor runs list`")


def milestones(db: sqlite3.Connection, run: str) -> list[Milestone]:
    """The run at steps 10, 50, 100, 200, 500, ... and at its last one."""
    averages = ", ".join(f"ema(loss, {keep}) OVER (ORDER BY step)" for keep in KEEPS)
    rows = db.execute(
        f"SELECT step, tokens, loss, lr, grad_norm, cost_usd, {averages} FROM steps WHERE run = ? ORDER BY step", (run,)
    ).fetchall()
    return [
        Milestone(row["step"], row["tokens"], row["loss"], tuple(row[6:]), row["lr"], row["grad_norm"], row["cost_usd"])
        for row in rows
        if row["step"] in MILESTONES or row is rows[-1]
    ]


def sections(db: sqlite3.Connection, run: str) -> Iterator[tuple[str, list[str], list[sqlite3.Row]]]:
    """Title, columns and rows of each table that says more of a run."""
    for title, sql in _SECTIONS.items():
        cursor = db.execute(sql, {"run": run})
        yield title, [column[0] for column in cursor.description], cursor.fetchall()


def recipe(db: sqlite3.Connection, run: str) -> dict[str, Any]:
    """Its model, train and mixture, which are kept when the run is deleted."""
    return json.loads(db.execute("SELECT recipe FROM runs WHERE run = ?", (run,)).fetchone()[0])


def held_out(db: sqlite3.Connection, run: str) -> dict[str, HeldOut]:
    """Source -> what was measured of it while the run went."""
    sql = "SELECT source, step, bits_per_byte, tokens FROM held_out WHERE run = ? ORDER BY source, step"
    by_source = groupby(db.execute(sql, (run,)), key=lambda row: row["source"])
    return {source: HeldOut.of([row[1:] for row in rows]) for source, rows in by_source}


def median_tokens_per_s(db: sqlite3.Connection, run: str) -> float | None:
    """The speed of the middle one of the run's steps; None before the first."""
    row = db.execute(
        "SELECT tokens_per_s FROM steps WHERE run = :run ORDER BY tokens_per_s "
        "LIMIT 1 OFFSET (SELECT count(*) / 2 FROM steps WHERE run = :run)",
        {"run": run},
    ).fetchone()
    return row[0] if row else None


def state_now(row: sqlite3.Row) -> str:
    """complete, running, stopped or deleted: the state in an `overview` row, and what its folder says just now."""
    published = Store().root / row["name"]
    partial = published.with_name(f".{published.name}{PARTIAL}")
    if not published.exists() and not partial.exists():
        return "deleted"
    if _is_locked(partial / LOCK):
        return "running"
    return row["state"] if row["state"] == "complete" else "stopped"


def _is_locked(path: Path) -> bool:
    if not path.exists():
        return False
    try:
        with FileLock(path, timeout=0):  # for an instant; a trainer that wants it just then tries again
            return False
    except Timeout:
        return True
    except OSError:
        return False


def curve(db: sqlite3.Connection, row: sqlite3.Row) -> Curve:
    """The loss of a run (an `overview` row) over its steps, and its evaluations."""
    losses = db.execute("SELECT step, loss FROM steps WHERE run = ? ORDER BY step", (row["run"],)).fetchall()
    return Curve.of(row["name"], losses, held_out(db, row["run"]))

"""The metrics database `<home>/runs.sqlite`: its tables, and how it is opened to be written.

It holds nothing that the files of the runs do not say: any of it can be thrown away and made again.
Invariant: whatever is written is written in one transaction together with the place in the file it was read from, so
that a kill leaves the rows up to some line, and nobody adds a line twice.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from athanor.core.disk import home
from athanor.core.errors import UserError

VERSION = 1
PATIENT_S = 60.0
STEP_COLUMNS = (
    "loss",
    "lr",
    "grad_norm",
    "tokens",
    "tokens_per_s",
    "flops_per_s",
    "utilisation",
    "step_s",
    "wall_s",
    "eta_s",
    "cost_usd",
)

# The comments are for people too: `select sql from sqlite_schema` shows them.
_TABLES = (
    """CREATE TABLE runs (
    run TEXT PRIMARY KEY,       -- first 12 digits of the artifact's key, which its name ends with
    key TEXT NOT NULL,
    name TEXT NOT NULL,         -- stage/label-run, as `athanor artifacts` lists it
    stage TEXT NOT NULL,        -- pretrain, sft
    label TEXT NOT NULL,
    family TEXT NOT NULL,
    parameters INTEGER,
    steps_planned INTEGER NOT NULL,
    published INTEGER NOT NULL, -- 1: the artifact stands in the store
    recipe TEXT NOT NULL        -- JSON: model, train, mixture
) STRICT, WITHOUT ROWID""",
    """CREATE TABLE steps (
    run TEXT NOT NULL REFERENCES runs,
    step INTEGER NOT NULL,      -- optimizer steps completed
    loss REAL,                  -- nats per token; NULL: not finite
    lr REAL,
    grad_norm REAL,             -- before clipping
    tokens INTEGER,             -- so far
    tokens_per_s REAL,
    flops_per_s REAL,
    utilisation REAL,           -- share of the device's peak; 0: peak unknown
    step_s REAL,                -- forward, backward and optimizer
    wall_s REAL,                -- all since the step before
    eta_s REAL,
    cost_usd REAL,              -- so far, over all attempts
    PRIMARY KEY (run, step)
) STRICT, WITHOUT ROWID""",
    """CREATE TABLE details (     -- all else that a step row says; see the views routing, schedule and mix
    run TEXT NOT NULL REFERENCES runs,
    field TEXT NOT NULL,        -- aux, schedule, mix, ...
    name TEXT NOT NULL,
    step INTEGER NOT NULL,
    value ANY,
    PRIMARY KEY (run, field, name, step)
) STRICT, WITHOUT ROWID""",
    """CREATE TABLE held_out (    -- evaluations during training
    run TEXT NOT NULL REFERENCES runs,
    step INTEGER NOT NULL,
    source TEXT NOT NULL,
    loss REAL,                  -- nats per token
    bits_per_byte REAL,
    tokens INTEGER,             -- evaluated
    PRIMARY KEY (run, step, source)
) STRICT, WITHOUT ROWID""",
    """CREATE TABLE benchmarks (  -- scores of the finished model
    run TEXT NOT NULL REFERENCES runs,
    evaluation TEXT NOT NULL,   -- first 12 digits of the evaluate artifact's key
    task TEXT NOT NULL,
    metric TEXT NOT NULL,
    value REAL,
    ci_low REAL,                -- 95 %
    ci_high REAL,
    n INTEGER,
    higher_is_better INTEGER,
    chance REAL,
    PRIMARY KEY (run, evaluation, metric)
) STRICT, WITHOUT ROWID""",
    """CREATE TABLE events (
    run TEXT NOT NULL REFERENCES runs,
    event INTEGER NOT NULL,     -- 1, 2, ... as logged
    step INTEGER NOT NULL,
    message TEXT NOT NULL,
    attempt TEXT,               -- where an attempt begins
    PRIMARY KEY (run, event)
) STRICT, WITHOUT ROWID""",
    """CREATE TABLE costs (       -- the ledger
    run TEXT NOT NULL REFERENCES runs,
    entry INTEGER NOT NULL,
    attempt TEXT NOT NULL,
    time REAL NOT NULL,         -- Unix time, seconds
    device_s REAL NOT NULL,
    usd REAL NOT NULL,
    PRIMARY KEY (run, entry)
) STRICT, WITHOUT ROWID""",
    """CREATE TABLE followed (    -- how far each file of a run has been read
    run TEXT NOT NULL REFERENCES runs,
    file TEXT NOT NULL,
    inode INTEGER NOT NULL,
    read_bytes INTEGER NOT NULL,
    last_line BLOB NOT NULL,
    PRIMARY KEY (run, file)
) STRICT, WITHOUT ROWID""",
    "CREATE VIEW routing AS SELECT run, step, name, value FROM details WHERE field = 'aux'",
    "CREATE VIEW schedule AS SELECT run, step, name, value FROM details WHERE field = 'schedule'",
    "CREATE VIEW mix AS SELECT run, step, name AS source, value AS rows FROM details WHERE field = 'mix'",
    """CREATE VIEW best AS        -- the evaluation of each run with the lowest mean of its sources' bits per byte
SELECT run, step, min(bits_per_byte) AS bits_per_byte
FROM (SELECT run, step, avg(bits_per_byte) AS bits_per_byte FROM held_out GROUP BY run, step)
GROUP BY run""",
    """CREATE VIEW overview AS    -- one line a run
SELECT runs.run, name, stage, family, parameters,
    CASE WHEN published OR last.step >= steps_planned THEN 'complete' ELSE 'unfinished' END AS state,
    coalesce(last.step, 0) AS step, steps_planned, last.tokens, last.loss,
    best.bits_per_byte AS best_bits_per_byte, best.step AS best_step,
    spent.usd, spent.device_s, spent.started, spent.updated
FROM runs
LEFT JOIN steps AS last ON last.run = runs.run AND last.step = (SELECT max(step) FROM steps WHERE run = runs.run)
LEFT JOIN best ON best.run = runs.run
LEFT JOIN (SELECT run, sum(usd) AS usd, sum(device_s) AS device_s, min(time) AS started, max(time) AS updated
    FROM costs GROUP BY run) AS spent ON spent.run = runs.run""",
)


def database_path() -> Path:
    """Where the database is kept."""
    return home() / "runs.sqlite"


@contextmanager
def writing(patience_s: float) -> Iterator[sqlite3.Connection]:
    """The database, made if it is not there, within one transaction that is committed at the end of the block.

    Waits up to `patience_s` for another writer. Raises sqlite3.Error when it cannot be written, UserError when it has
    the tables of another version.
    """
    with _opened(patience_s) as db, _transaction(db):
        version = db.execute("PRAGMA user_version").fetchone()[0]
        if version == 0:
            _create(db)
        elif version != VERSION:
            raise UserError(f"{database_path()} was made by another version: `athanor runs rebuild` makes it anew")
        yield db


@contextmanager
def emptied() -> Iterator[sqlite3.Connection]:
    """The same with all tables made anew; readers see the old rows until the block ends. Damaged files are deleted."""
    if not _is_whole():
        for suffix in ("", "-wal", "-shm"):
            Path(f"{database_path()}{suffix}").unlink(missing_ok=True)
    with _opened(PATIENT_S) as db, _transaction(db):
        for kind, name in db.execute("SELECT type, name FROM sqlite_schema WHERE type IN ('table', 'view')").fetchall():
            db.execute(f'DROP {kind} "{name}"')
        _create(db)
        yield db


def _is_whole() -> bool:
    try:
        with _opened(PATIENT_S) as db:
            return db.execute("PRAGMA quick_check").fetchall() == [("ok",)]
    except sqlite3.DatabaseError as error:
        if error.sqlite_errorcode & 0xFF in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
            return False
        raise


@contextmanager
def _opened(patience_s: float) -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(database_path(), timeout=patience_s, isolation_level=None)) as db:
        if db.execute("PRAGMA journal_mode").fetchone()[0] != "wal":
            db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = NORMAL")  # a power cut may lose the newest transactions, never half of one
        yield db


@contextmanager
def _transaction(db: sqlite3.Connection) -> Iterator[None]:
    db.execute("BEGIN IMMEDIATE")
    try:
        yield
    except BaseException:
        db.rollback()
        raise
    db.commit()


def _create(db: sqlite3.Connection) -> None:
    for statement in _TABLES:
        db.execute(statement)
    db.execute(f"PRAGMA user_version = {VERSION}")

"""What is read from the metrics database: exact averages, milestones, the right run, and nothing can be written."""

from __future__ import annotations

import math
import sqlite3
from contextlib import closing

import numpy as np
import pytest

from athanor.core.errors import UserError
from athanor.core.store import Store
from athanor.tasks.runs.follow import catch_up
from athanor.tasks.runs.read import KEEPS, find_run, held_out, milestones, overview, query, reading
from athanor.tasks.runs.schema import database_path

LOSSES = [3.0 + math.sin(step) for step in range(1, 1301)]


@pytest.fixture
def db(logged_run):
    logged_run("a", LOSSES[:20])
    logged_run("b", [4.0, 3.0, 2.0, 5.0, 1.0, 2.0, 2.0, 2.0, 2.0, 0.5, 9.0], stage="sft", family="hydra", steps=11)
    catch_up(Store())
    with reading() as db:
        yield db


def average(losses, keep):
    """The definition: a weighted mean whose weights fall by `keep` for every step back."""
    weights = keep ** np.arange(len(losses) - 1, -1, -1.0)
    return (weights * losses).sum() / weights.sum()


def test_milestones_are_the_logged_losses_and_the_exact_averages_up_to_them(logged_run):
    logged_run("a", LOSSES)
    catch_up(Store())
    with reading() as db:
        found = milestones(db, "a" * 12)
    assert [m.step for m in found] == [10, 50, 100, 200, 500, 1000, 1300]
    for m in found:
        assert m.loss == LOSSES[m.step - 1]
        assert m.ema == pytest.approx([average(LOSSES[: m.step], keep) for keep in KEEPS], rel=1e-9)


def test_ema_in_sql_starts_anew_for_every_run_and_skips_what_is_not_finite(logged_run):
    logged_run("a", [4.0, math.nan, 2.0])
    logged_run("b", [1.0])
    catch_up(Store())
    with reading() as db:
        _, rows = query(db, "SELECT ema(loss, 0.5) OVER (PARTITION BY run ORDER BY step) FROM steps ORDER BY run, step")
    assert [row[0] for row in rows] == pytest.approx([4.0, 4.0, average([4.0, 2.0], 0.5), 1.0])


def test_the_overview_says_how_far_every_run_is(db):
    first, second = sorted(overview(db), key=lambda row: row["name"])
    assert (first["name"], first["state"], first["step"]) == ("pretrain/vanilla-aaaaaaaaaaaa", "unfinished", 20)
    assert (second["name"], second["state"], second["loss"]) == ("sft/hydra-bbbbbbbbbbbb", "complete", 9.0)
    assert (second["best_bits_per_byte"], second["best_step"]) == (0.25, 10)
    (found,) = held_out(db, second["run"]).values()
    assert found.step_M.tolist() == [5, 10] and found.bits_per_byte_M.tolist() == [0.5, 0.25] and found.best == 1


@pytest.mark.parametrize("text", ["sft/hydra-bbbbbbbbbbbb", "sft", "hydra", "hydra-bbb", "bbbb"])
def test_a_run_is_found_by_a_prefix_of_its_name(db, text):
    assert find_run(db, text)["run"] == "b" * 12


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("vanila", "no run 'vanila': there is pretrain/vanilla-aaaaaaaaaaaa;"),
        ("sft/hydra-ccc", "no run 'sft/hydra-ccc': there is sft/hydra-bbbbbbbbbbbb"),
        ("", "2 runs match '': there is pretrain/vanilla-aaaaaaaaaaaa, sft/hydra-bbbbbbbbbbbb;"),
    ],
)
def test_an_unknown_run_is_one_line_with_those_that_are_near(db, text, said):
    with pytest.raises(UserError, match="see `athanor runs list`") as error:
        find_run(db, text)
    assert said in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "sql",
    [
        "DELETE FROM steps",
        "UPDATE runs SET name = 'x'",
        "DROP TABLE steps",
        "CREATE TEMP TABLE x (y)",
        "PRAGMA user_version = 5",
        "PRAGMA journal_mode = DELETE",
        "ATTACH DATABASE 'other.sqlite' AS other",
        "VACUUM INTO 'copy.sqlite'",
        "BEGIN IMMEDIATE",
        "SELECT load_extension('x')",
        "SELECT 1; DELETE FROM steps",
    ],
)
def test_a_query_can_change_nothing(db, sql, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"^query"):
        query(db, sql)
    with closing(sqlite3.connect(database_path())) as other:
        assert other.execute("SELECT count(*) FROM steps").fetchone() == (31,)
    assert not list(tmp_path.glob("*.sqlite"))


def test_the_connection_itself_is_read_only(db):
    db.set_authorizer(None)
    with pytest.raises(sqlite3.OperationalError, match="readonly"):
        db.execute("DELETE FROM steps")


def test_every_table_and_column_explains_itself(db):
    _, rows = query(db, "SELECT sql FROM sqlite_schema WHERE name = 'steps'")
    assert "-- before clipping" in rows[0][0]

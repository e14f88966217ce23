"""The metrics database says what the runs' logs say: whoever writes, whatever was killed, and made anew from them."""

from __future__ import annotations

import json
import math
import os
import random
import shutil
import sqlite3
import subprocess
import sys
import textwrap
import time
from contextlib import closing
from pathlib import Path

import pytest

from athanor.core.disk import write_json
from athanor.core.keys import artifact_key
from athanor.core.rows import read_rows
from athanor.core.store import Artifact, Store
from athanor.tasks.runs.follow import Recorder, catch_up, rebuild, record_benchmark
from athanor.tasks.runs.schema import database_path
from athanor.tasks.trainer.records.metrics import MetricsLog

RESULT = {
    "label": "word-problems",
    "metrics": {"exact_match": {"value": 0.25, "ci_low": 0.1, "ci_high": 0.4, "n": 40, "higher_is_better": True}},
}


def dump() -> list[str]:
    """Everything in the database, as SQL."""
    with closing(sqlite3.connect(database_path())) as db:
        assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        return list(db.iterdump())


def select(sql: str) -> list[tuple]:
    with closing(sqlite3.connect(database_path())) as db:
        return db.execute(sql).fetchall()


def rebuilt_from_nothing() -> list[str]:
    database_path().unlink()
    rebuild(Store())
    return dump()


def record(folder: Path) -> None:
    complaints: list[str] = []
    Recorder(folder, complaints.append).record()
    assert complaints == []


def publish(folder: Path) -> Path:
    published = folder.with_name(folder.name.removeprefix(".").removesuffix(".partial"))
    folder.rename(published)
    return published


def write_evaluation(run: Path) -> Artifact:
    """An evaluate artifact of the model in `run`, as the store publishes it."""
    model_key = json.loads((run / "run.json").read_text())["key"]
    recipe, parents = {"task": "word-problems"}, {"model": model_key}
    artifact = Store().artifact("evaluate", "word-problems-base", artifact_key("evaluate", 1, recipe, parents))
    partial = Store().partial(artifact, resume=False)
    write_json(partial / "result.json", RESULT)
    Store().publish(artifact, partial, {"code_version": 1, "recipe": recipe, "parents": parents})
    return artifact


def test_every_row_of_the_logs_is_there(logged_run):
    folder = logged_run("a", [4.0, math.nan, 3.0, 2.5, 2.0])
    record(folder)
    rows = list(read_rows(folder / "metrics.jsonl"))
    steps = [row for row in rows if row["kind"] == "step"]
    assert select("SELECT step, loss, tokens, utilisation FROM steps") == [
        (row["step"], None if math.isnan(row["loss"]) else row["loss"], row["tokens"], row["utilisation"])
        for row in steps
    ]
    for view, field in (("routing", "aux"), ("schedule", "schedule"), ("mix", "mix")):
        logged = {(row["step"], *item) for row in steps for item in row[field].items()}
        assert set(select(f"SELECT step, * FROM (SELECT * FROM {view})")) == {
            (step, "a" * 12, step, name, value) for step, name, value in logged
        }
    assert select("SELECT step, source, loss, bits_per_byte, tokens FROM held_out") == [(5, "math", 2.0, 1.0, 64)]
    assert select("SELECT step, message, attempt FROM events") == [(0, "started", "first")]
    ledger = list(read_rows(folder / "ledger.jsonl"))
    assert select("SELECT attempt, time, usd FROM costs") == [(r["attempt"], r["time"], r["usd"]) for r in ledger]
    run = select("SELECT name, stage, family, steps_planned, published, parameters FROM runs")
    assert run == [("pretrain/vanilla-aaaaaaaaaaaa", "pretrain", "vanilla", 1000, 0, run[0][5])]
    assert run[0][5] > 1000


def test_a_field_nobody_foresaw_is_kept(logged_run):
    folder = logged_run("a", [4.0])
    log = MetricsLog(folder, 1, "second", [])
    log.step(2, loss=3.0, skipped=True, samples=[7, 9], guard={"window": 0.5})
    log.close()
    record(folder)
    details = set(select("SELECT field, name, value FROM details WHERE step = 2"))
    assert details == {("skipped", "skipped", 1), ("samples", "samples", "[7, 9]"), ("guard", "window", 0.5)}


def test_a_resume_drops_from_the_database_what_it_drops_from_the_log(logged_run):
    folder = logged_run("a", [4.0, 3.5, 3.0, 2.5, 2.0])
    record(folder)
    resumed = MetricsLog(folder, 2, "second", [])
    record(folder)
    assert select("SELECT step FROM steps") == [(1,), (2,)]
    assert select("SELECT DISTINCT step FROM details") == [(1,), (2,)]
    assert select("SELECT * FROM held_out") == []
    assert [message for (message,) in select("SELECT message FROM events")] == ["started", "resumed at step 2"]
    resumed.step(3, loss=9.0)
    resumed.close()
    record(folder)
    assert select("SELECT loss FROM steps WHERE step = 3") == [(9.0,)]
    live = dump()
    assert rebuilt_from_nothing() == live


def test_a_rewritten_log_is_read_again_even_under_the_number_of_the_old_file(logged_run):
    folder = logged_run("a", [4.0, 3.5, 3.0])
    record(folder)
    log = folder / "metrics.jsonl"
    kept = log.read_bytes().splitlines(keepends=True)[:2]
    log.write_bytes(b"".join(kept) + kept[-1].replace(b'"step": 1', b'"step": 2') * 9)  # same inode, longer
    record(folder)
    assert select("SELECT step, loss FROM steps") == [(1, 4.0), (2, 4.0)]


def test_another_file_that_ends_alike_is_read_again(logged_run):
    folder = logged_run("a", [4.0, 3.5])
    record(folder)
    log = folder / "metrics.jsonl"
    (folder / "other").write_bytes(log.read_bytes().replace(b'"loss": 4.0', b'"loss": 9.0'))
    (folder / "other").replace(log)
    record(folder)
    assert select("SELECT step, loss FROM steps") == [(1, 9.0), (2, 3.5)]


def test_a_line_is_taken_once_and_only_when_it_is_whole(logged_run):
    folder = logged_run("a", [4.0])
    with open(folder / "metrics.jsonl", "ab") as log:
        for part in (b'{"kind": "event", "step": 1, ', b'"message": "half"}', b"\n"):
            assert len(select("SELECT * FROM events")) == 1 if database_path().exists() else True
            log.write(part)
            log.flush()
            record(folder)
            catch_up(Store())
    assert select("SELECT event, message FROM events") == [(1, "started"), (2, "half")]


def test_made_anew_it_is_what_was_written_live(logged_run):
    base, tuned = logged_run("a", [4.0, 3.0, 2.0, 1.5, 1.2]), logged_run("b", [2.0] * 7, stage="sft", family="hydra")
    for folder in (base, tuned):
        record(folder)
    published = publish(base)
    evaluation = write_evaluation(published)
    model = Artifact("pretrain", "vanilla", "a" * 64, published)
    record_benchmark(evaluation.key, model, RESULT, pytest.fail)
    live = dump()
    catch_up(Store())
    assert dump() == live
    assert select("SELECT run, task, metric, value, n, chance FROM benchmarks") == [
        ("a" * 12, "word-problems", "exact_match", 0.25, 40, None)
    ]
    assert rebuild(Store()) == {"runs": 2, "steps": 12, "held_out": 2, "benchmarks": 1}
    assert dump() == live
    assert rebuilt_from_nothing() == live
    database_path().unlink()
    catch_up(Store())
    assert dump() == live


def test_a_deleted_run_stays_until_the_database_is_made_anew(logged_run):
    deleted, kept = logged_run("a", [4.0]), logged_run("b", [3.0])
    for folder in (deleted, kept):
        record(folder)
    shutil.rmtree(deleted)
    catch_up(Store())
    assert len(select("SELECT * FROM runs")) == 2
    rebuild(Store())
    assert [run for (run,) in select("SELECT run FROM runs")] == ["b" * 12]


def test_of_two_folders_with_one_key_the_one_written_last_counts(logged_run):
    published = publish(logged_run("a", [4.0, 3.0]))
    record(published)
    again = logged_run("a", [5.0])
    os.utime(published / "metrics.jsonl", (1, 1))
    record(again)
    live = dump()
    catch_up(Store())
    assert dump() == live == rebuilt_from_nothing()
    assert select("SELECT step, loss FROM steps") == [(1, 5.0)]


@pytest.mark.parametrize("damage", ["garbage", "torn", "other version"])
def test_rebuild_mends_a_damaged_database(logged_run, damage):
    folder = logged_run("a", [float(step) for step in range(200)])
    record(folder)
    live = dump()
    if damage == "garbage":
        database_path().write_bytes(b"no database" * 1000)
    elif damage == "torn":
        with open(database_path(), "r+b") as file:
            file.seek(8192)
            file.write(os.urandom(40_000))
    else:
        with closing(sqlite3.connect(database_path())) as db:
            db.execute("PRAGMA user_version = 99")
    rebuild(Store())
    assert dump() == live


@pytest.fixture(params=["locked", "garbage", "a folder", "read-only", "no home"])
def trouble(request, logged_run):
    """A database that cannot be written while the fixture lasts; calling it mends it."""
    path, holder = database_path(), None
    if request.param == "read-only":
        if os.geteuid() == 0:
            pytest.skip("root may write anything")
        record(logged_run("f", []))
        path.chmod(0o444)
    elif request.param == "locked":
        record(logged_run("f", []))
        holder = sqlite3.connect(path, isolation_level=None)
        holder.execute("BEGIN IMMEDIATE")
    elif request.param == "a folder":
        path.mkdir(parents=True)
    elif request.param == "garbage":
        path.parent.mkdir()
        path.write_bytes(b"no database" * 1000)

    def mend() -> None:
        if holder is not None:
            holder.close()
        elif path.is_dir():
            path.rmdir()
        elif path.exists():
            path.chmod(0o644)

    yield mend
    mend()


def test_a_database_that_cannot_be_written_is_said_once_and_loses_nothing(trouble, logged_run, monkeypatch):
    folder = logged_run("a", [4.0, 3.0])
    monkeypatch.setattr("athanor.tasks.runs.follow.PATIENCE_S", 0.05)
    if not database_path().exists():
        monkeypatch.setenv("ATHANOR_HOME", str(folder / "nowhere"))
    said: list[str] = []
    recorder = Recorder(folder, said.append)
    started = time.monotonic()
    for _ in range(3):
        recorder.record()
    assert time.monotonic() - started < 3
    assert len(said) == 1 and "\n" not in said[0]
    assert "`athanor runs rebuild`" in said[0]
    monkeypatch.setenv("ATHANOR_HOME", str(folder.parents[2]))
    trouble()
    rebuild(Store())
    assert select(f"SELECT count(*) FROM steps WHERE run = '{'a' * 12}'") == [(2,)]


def test_a_full_disk_is_said_once_and_leaves_a_whole_database(logged_run, step_values):
    folder = logged_run("a", [4.0])
    record(folder)
    before = dump()
    log = MetricsLog(folder, 1, "second", [])
    for step in range(2, 2002):
        log.step(step, **step_values(step, 3.0))
    log.close()
    said = python(
        """
        import resource
        from athanor.tasks.runs.follow import Recorder
        recorder = Recorder(Path(sys.argv[1]), print)
        resource.setrlimit(resource.RLIMIT_FSIZE, (150_000, 150_000))
        recorder.record()
        recorder.record()
        """,
        folder,
    ).communicate()[0]
    assert len(said.splitlines()) == 1 and "is not up to date" in said
    assert dump() == before
    record(folder)
    assert select("SELECT count(*) FROM steps") == [(2001,)]


WRITE_AND_RECORD = """
    import json
    from athanor.tasks.runs.follow import Recorder, catch_up
    from athanor.tasks.trainer.records.metrics import MetricsLog
    folder, rows, attempt, values = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3], json.loads(sys.argv[4])
    log, recorder = MetricsLog(folder, 0, attempt, []), Recorder(folder, print)
    for step in range(1, rows + 1):
        log.step(step, **values)
        if step % 7 == 0:
            recorder.record()
    recorder.record()
    """


def python(code: str, *arguments: object) -> subprocess.Popen[str]:
    """A process that runs the code with `arguments` in sys.argv."""
    whole = "import sys\nfrom pathlib import Path\n" + textwrap.dedent(code)
    return subprocess.Popen([sys.executable, "-c", whole, *map(str, arguments)], stdout=subprocess.PIPE, text=True)


def test_a_killed_writer_leaves_whole_rows_and_the_next_takes_up_the_rest(logged_run, step_values):
    folder = logged_run("a", [])
    record(folder)
    for attempt in range(3):
        writer = python(WRITE_AND_RECORD, folder, 1_000_000, attempt, json.dumps(step_values(1, 0.5)))
        deadline = time.monotonic() + 30
        while not select(f"SELECT 1 FROM events WHERE attempt = '{attempt}'"):
            assert time.monotonic() < deadline and writer.poll() is None
            time.sleep(0.02)
        for _ in range(random.randint(5, 30)):
            assert (select("SELECT max(step) FROM steps")[0][0] or 0) % 7 == 0, "it writes seven rows or none"
            time.sleep(0.005)
        writer.kill()
        writer.communicate()
        dump()
        halves = "SELECT step FROM steps LEFT JOIN details USING (run, step) GROUP BY step HAVING count(name) != 5"
        assert select(halves) == []
        ((count, last),) = select("SELECT count(*), coalesce(max(step), 0) FROM steps")
        assert count == last and last % 7 == 0
    catch_up(Store())
    assert select("SELECT max(step) FROM steps") == [([*read_rows(folder / "metrics.jsonl")][-1]["step"],)]
    live = dump()
    assert rebuilt_from_nothing() == live


def test_several_runs_write_at_once_and_no_row_is_lost(logged_run, step_values):
    folders = [logged_run(digit, []) for digit in "abc"]
    for folder in folders:
        record(folder)
    writers = [python(WRITE_AND_RECORD, folder, 400, "x", json.dumps(step_values(1, 0.5))) for folder in folders]
    while any(writer.poll() is None for writer in writers):
        catch_up(Store())
        time.sleep(0.05)
    assert [writer.communicate()[0] for writer in writers] == ["", "", ""]
    assert select("SELECT run, count(*) FROM steps GROUP BY run") == [(digit * 12, 400) for digit in "abc"]
    live = dump()
    assert rebuilt_from_nothing() == live

"""The journal: the first rank writes, the others are silent; nothing said early is lost."""

from __future__ import annotations

from contextlib import ExitStack

from athanor.core.rows import read_rows
from athanor.tasks.trainer.process.world import ALONE, World
from athanor.tasks.trainer.records.journal import Journal
from athanor.tasks.trainer.start import read_spec


def test_what_is_said_before_the_log_is_open_stands_in_it_and_is_heard(make_run):
    folder, heard = make_run("run"), []
    with ExitStack() as cleanup:
        journal = Journal(folder, read_spec(folder), ALONE, 1, 0.0, cleanup)
        journal.say(0, "a checkpoint is damaged")
        journal.begin(3, heard.append)
        journal.evaluation(3, {"one": {"loss": 1.0}})
    rows = list(read_rows(folder / "metrics.jsonl"))
    assert [row.get("message", row["kind"]) for row in rows] == ["resumed at step 3", "a checkpoint is damaged", "eval"]
    assert heard == rows
    assert journal.evaluated(3) and not journal.evaluated(4)


def test_another_rank_writes_nothing(make_run):
    folder = make_run("run")
    with ExitStack() as cleanup:
        journal = Journal(folder, read_spec(folder), World(rank=1, size=2), 2, 0.0, cleanup)
        journal.begin(0, lambda row: None)
        journal.say(0, "nobody hears")
        journal.step(1, loss=1.0)
        journal.sync()
    assert [path.name for path in folder.iterdir()] == ["run.json"]
    assert journal.device_s == 0.0

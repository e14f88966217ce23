"""What a run takes from its budget: device seconds of all its devices, all attempts together."""

import json

import pytest
from trainer_stop import Stop

from athanor.core.rows import read_rows
from athanor.core.runtime import Runtime
from athanor.tasks.trainer import run as module
from athanor.tasks.trainer.course.course import Course
from athanor.tasks.trainer.process.exit_codes import Preempted
from athanor.tasks.trainer.process.world import World
from athanor.tasks.trainer.records.ledger import Ledger, ledger_total
from athanor.tasks.trainer.run import train

DEVICES, USED_DEVICE_S = 4, 1000.0


def test_the_time_that_is_left_is_the_budget_less_what_was_used_shared_by_the_devices(make_run, monkeypatch):
    monkeypatch.setattr(Runtime, "devices", lambda *_: DEVICES)
    folder = make_run("run", train={"steps": 3}, runtime={"budget_s": 5000.0})
    earlier = Ledger(folder, "earlier", devices=DEVICES, price_usd_per_hour=1.0)
    earlier._charged -= USED_DEVICE_S / DEVICES
    earlier.close()
    seen_s = []

    def look(course, step, left_s, step_s, closing_s):
        seen_s.append(left_s)
        return course

    monkeypatch.setattr(module, "revised", look)
    train(folder, Stop())
    used_s = ledger_total(folder).device_s / DEVICES
    assert seen_s == sorted(seen_s, reverse=True) and len(seen_s) == 4
    assert 5000 / DEVICES - used_s <= seen_s[-1] < seen_s[0] <= (5000 - USED_DEVICE_S) / DEVICES


def test_every_rank_keeps_to_the_course_that_the_first_has_found(make_run, monkeypatch):
    def said_by_the_first(_, value):
        return Course(value.recipe).cut(1, 2) if isinstance(value, Course) else value

    monkeypatch.setattr(World, "from_first", said_by_the_first)
    folder = make_run("run", train={"steps": 5}, runtime={"budget_s": 5000.0})
    train(folder, Stop())
    assert json.loads((folder / "summary.json").read_text())["cuts"] == [{"at_step": 1, "end": 2}]
    assert [row["step"] for row in read_rows(folder / "metrics.jsonl") if row["kind"] == "step"] == [1, 2]


def test_a_resumed_run_keeps_the_course_that_an_earlier_attempt_decided(make_run, monkeypatch):
    folder = make_run("run", train={"steps": 9}, runtime={"budget_s": 5000.0})
    monkeypatch.setattr(module, "revised", lambda course, step, *_: course if course.cuts else course.cut(step, 5))
    with pytest.raises(Preempted):
        train(folder, Stop(looks=3))
    monkeypatch.setattr(module, "revised", lambda course, *_: course)
    train(folder, Stop())
    assert json.loads((folder / "summary.json").read_text())["cuts"] == [{"at_step": 0, "end": 5}]
    assert [row["step"] for row in read_rows(folder / "metrics.jsonl") if row["kind"] == "step"] == [1, 2, 3, 4, 5]

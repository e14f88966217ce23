"""A router that collapses is an event, once."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any, cast

import pytest
from trainer_stop import Stop

from athanor.core.rows import read_rows
from athanor.tasks.trainer.observers import collapse
from athanor.tasks.trainer.observers.collapse import MEMORY_STEPS, Collapse
from athanor.tasks.trainer.process.exit_codes import Preempted
from athanor.tasks.trainer.run import train


def watching(said: list[str], init_dir=None) -> Collapse:
    model, spec = SimpleNamespace(smallest_shares=("load_min",)), SimpleNamespace(init_dir=init_dir)
    return Collapse(cast(Any, SimpleNamespace(engine=SimpleNamespace(model=model), spec=spec, say=said.append)))


def feed(observer: Collapse, share: float, steps: int) -> None:
    for _ in range(steps):
        observer.row({"kind": "step", "aux": {"load_min": share}})


def test_it_is_said_once_when_a_choice_is_no_longer_made_and_once_when_it_is_again():
    said: list[str] = []
    observer = watching(said)
    feed(observer, 0.0, MEMORY_STEPS - 1)
    assert said == []
    feed(observer, 0.0, 3 * MEMORY_STEPS)
    assert said == [f"a router has collapsed: load_min was below 0.1\u00a0% over {MEMORY_STEPS} steps"]
    assert observer.summary() == {"collapsed_routers": ["load_min"]}
    feed(observer, 0.2, MEMORY_STEPS)
    assert len(said) == 2 and said[1].startswith("the router has come back: load_min is 0.4")


def test_what_had_collapsed_before_fine_tuning_is_said_as_that_and_not_again(tmp_path):
    said: list[str] = []
    base = watching(said)
    feed(base, 0.0, MEMORY_STEPS)
    (tmp_path / "summary.json").write_text(json.dumps({"steps": 9, **base.summary()}))
    said.clear()
    tuned = watching(said, str(tmp_path))
    tuned.begin(0)
    feed(tuned, 0.0, 2 * MEMORY_STEPS)
    assert said == ["routers had collapsed in the model it starts from: load_min"]
    assert tuned.summary() == base.summary()
    feed(tuned, 0.2, MEMORY_STEPS)
    assert said[1].startswith("the router has come back: load_min")
    resumed = watching([], str(tmp_path))
    resumed.restore(tuned.state())
    assert resumed.summary() == {}
    fresh = watching(said, str(tmp_path / "published"))
    fresh.begin(0)
    assert len(said) == 2 and fresh.summary() == {}


def test_a_small_batch_that_leaves_a_choice_out_now_and_then_is_no_collapse():
    said: list[str] = []
    observer = watching(said)
    for step in range(4 * MEMORY_STEPS):
        feed(observer, 0.25 if step % 10 == 0 else 0.0, 1)
    assert said == []


def test_a_resumed_attempt_goes_on_counting_where_the_last_one_stopped():
    said: list[str] = []
    observer, resumed = watching(said), watching(said)
    feed(observer, 0.0, MEMORY_STEPS - 1)
    resumed.restore(observer.state())
    assert said == []
    feed(resumed, 0.0, 1)
    assert len(said) == 1


def test_it_remembers_over_an_interruption(make_run, monkeypatch):
    monkeypatch.setattr(collapse, "MEMORY_STEPS", 4)
    monkeypatch.setattr(collapse, "UNUSED_SHARE", 1.0)  # every router counts as collapsed

    whole, cut = (make_run(name, "polychromatic") for name in ("whole", "cut"))
    train(whole, Stop())
    with pytest.raises(Preempted):
        train(cut, Stop(looks=5))
    train(cut, Stop())
    events = [[row for row in read_rows(folder / "metrics.jsonl") if row["kind"] == "event"] for folder in (whole, cut)]
    steps = [[row["step"] for row in rows if "collapsed" in row["message"]] for rows in events]
    assert steps[0] == steps[1] and len(steps[0]) == 1

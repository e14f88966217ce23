"""What every stage declares of itself holds together."""

from __future__ import annotations

import inspect
from dataclasses import replace
from pathlib import Path

import pytest

import athanor.tasks
from athanor.core.recipe import Recipe
from athanor.core.store import Store
from athanor.tasks import stage as stages
from athanor.tasks.stage import STAGES, TRAINER, Wanted


@pytest.mark.parametrize("name", list(STAGES))
def test_a_stage_costs_what_it_builds_from(name):
    """`cost` takes the recipe and the inputs that `build` takes."""
    stage = STAGES[name]
    named = [p.name for p in inspect.signature(stage.build).parameters.values() if p.kind is p.KEYWORD_ONLY]
    inspect.signature(stage.cost).bind("recipe", "preset", **dict.fromkeys(named))
    assert stage.build.__module__ == stage.cost.__module__ == stage.wanted.__module__


def test_training_resumes_and_its_fingerprint_covers_the_process_it_starts():
    trained = [stage for stage in STAGES.records() if stage.trains]
    assert [stage.name for stage in trained] == ["pretrain", "sft"]
    assert all(stage.resumable and stage.code == (TRAINER,) for stage in trained)


def test_a_raised_code_version_is_another_key(tmp_path):
    wanted = Wanted("x", "x", Recipe())
    stage, store = STAGES["report"], Store(tmp_path)
    keys = {replace(stage, code_version=version).artifact(wanted, store).key for version in (1, 2, 2)}
    assert len(keys) == 2


def test_no_stage_is_written_and_left_undeclared():
    files = [path for path in Path(athanor.tasks.__path__[0]).glob("*.py") if "\ndef build(" in path.read_text()]
    assert {STAGES[name].build.__module__.rpartition(".")[2] for name in STAGES} == {path.stem for path in files}


def test_the_code_behind_a_stage_is_read_once_per_process(monkeypatch):
    read = []
    monkeypatch.setattr(stages, "code_fingerprint", lambda module: read.append(module) or "0" * 64)
    fresh = replace(STAGES["pretrain"])
    assert {fresh.fingerprint() for _ in range(3)} == {f"{'0' * 16}-{'0' * 16}"}
    assert read == ["athanor.tasks.pretrain", TRAINER]

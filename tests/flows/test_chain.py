"""What a chain asks for an artifact that is to be built, and does not ask for one that is there."""

from __future__ import annotations

import pytest

from athanor.core.runtime import Runtime
from athanor.core.store import Store
from athanor.flows.chain import Chain
from athanor.flows.plan.survey import Survey
from athanor.tasks.stage import Stage

PRICED = Runtime(price_usd_per_hour=3.0)


@pytest.fixture
def ran(monkeypatch) -> list[tuple[str, Runtime]]:
    """Stages run nothing; the runtime each was given, by name."""
    given = []

    def run(stage, recipe, *, label, runtime, decision, **inputs):
        given.append((stage.name, runtime))
        return stage.artifact(recipe, label, inputs, Store())

    monkeypatch.setattr(Stage, "__call__", run)
    return given


def test_only_what_may_be_built_is_given_a_runtime_of_its_own(small_preset, publish, ran):
    preset = small_preset()
    for stage in Survey(preset).needed_by("data"):
        publish(stage)
    _ = Chain(preset, runtime_of=lambda stage, artifact: PRICED).base
    assert {name for name, runtime in ran if runtime != PRICED} == {"acquire", "tokenizer", "tokenize"}
    assert [name for name, runtime in ran if runtime == PRICED] == ["pretrain"]


def test_what_may_be_drifted_and_so_built_again_has_it_too(small_preset, publish, ran):
    preset = small_preset("runtime.rebuild_drifted=true")
    for stage in Survey(preset).needed_by("data"):
        publish(stage)
    _ = Chain(preset, runtime_of=lambda stage, artifact: PRICED).shards
    assert ran and all(runtime == PRICED for _, runtime in ran)

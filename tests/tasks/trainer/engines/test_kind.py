"""Engines are declared beside their classes; the settings name the same ones."""

from __future__ import annotations

from typing import get_args

from athanor.core.runtime import EngineName, Runtime
from athanor.tasks.trainer.engines.kind import ENGINES, engine_of


def test_the_settings_name_the_engines_that_are_declared():
    assert sorted(get_args(EngineName)) == sorted(ENGINES)


def test_an_engine_says_what_a_rank_keeps_of_the_training_state():
    def stage(**runtime):
        found = Runtime.model_validate({"ranks": 4, **runtime})
        layout = engine_of(found).layout(found)
        return (layout.stage, layout.share(1), layout.share(2), layout.share(3))

    assert stage(engine="ddp") == (0, 1, 1, 1)
    assert stage(engine="fsdp") == (3, 4, 4, 4)
    assert stage(engine="deepspeed") == stage(engine="deepspeed", zero_stage=2) == (2, 4, 4, 1)
    assert stage(engine="deepspeed", zero_stage=1) == (1, 4, 1, 1)
    assert stage(engine="single", ranks=1) == (0, 1, 1, 1)
    offloaded = Runtime(engine="deepspeed", ranks=4, zero_stage=3, offload="parameters")
    assert engine_of(offloaded).layout(offloaded).offload == "parameters"


def test_every_engine_can_be_trained_with():
    for name in ENGINES:
        runtime = Runtime.model_validate({"engine": name, "ranks": 1 if name == "single" else 2})
        assert engine_of(runtime).name == name
    assert engine_of(Runtime()).name == "single"
    assert engine_of(Runtime(ranks=2)).name == "ddp"

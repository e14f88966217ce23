"""Engines are declared beside their classes; the settings name the same ones."""

from __future__ import annotations

from typing import get_args

from athanor.core.runtime import EngineName, Runtime
from athanor.tasks.trainer.engines.kind import ENGINES, engine_of


def test_the_settings_name_the_engines_that_are_declared():
    assert sorted(get_args(EngineName)) == sorted(ENGINES)


def test_every_engine_can_be_trained_with():
    for name in ENGINES:
        runtime = Runtime.model_validate({"engine": name, "ranks": 1 if name == "single" else 2})
        assert engine_of(runtime).name == name
    assert engine_of(Runtime()).name == "single"
    assert engine_of(Runtime(ranks=2)).name == "ddp"

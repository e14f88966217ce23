"""The shell completes presets, what the store holds and the fields of a preset, as it asks for them, and at once."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from athanor.flows.plan.survey import Survey

ATHANOR = str(Path(sys.executable).with_name("athanor"))
HEAVY = {"torch", "prefect", "numpy", "pyarrow", "datasets", "tokenizers", "lm_eval", "wandb", "matplotlib"}
IMPORTED = """
import atexit, sys
from athanor.flows.cli.entry import main
atexit.register(lambda: print(*sys.modules, file=sys.stderr))
sys.argv = ["athanor"]
main()
"""


def complete(line: str, *command: str) -> tuple[list[str], str]:
    """What bash is answered when TAB is pressed at the end of `line`, and what goes to stderr."""
    asked = {"_ATHANOR_COMPLETE": "complete_bash", "COMP_WORDS": line, "COMP_CWORD": str(len(line.split(" ")) - 1)}
    done = subprocess.run(
        command or (ATHANOR,), env={**os.environ, **asked}, capture_output=True, text=True, timeout=60, check=True
    )
    return done.stdout.split(), done.stderr


@pytest.fixture
def stored(small_preset, publish) -> dict[str, str]:
    """Stage -> name of an artifact in the store; pretraining has a model and a run's description, SFT was begun."""
    stages = {found.stage: found for found in Survey(small_preset()).needed_by("sft")}
    for stage in ("acquire", "tokenizer"):
        publish(stages[stage])
    publish(stages["pretrain"], files={"run.json": "{}", "model.safetensors": ""})
    begun = Path(os.environ["ATHANOR_HOME"], "store", "sft", f".{stages['sft'].artifact.path.name}.partial")
    begun.mkdir(parents=True)
    (begun / "run.json").write_text("{}")
    return {stage: found.artifact.name for stage, found in stages.items()}


def test_names_of_presets():
    assert complete("athanor run quickstart-s")[0] == ["quickstart-swa-mla"]
    assert complete("athanor presets vanilla-")[0] == ["vanilla-600m"]


def test_names_of_artifacts_by_what_the_command_can_use(stored):
    assert complete("athanor show tok")[0] == [stored["tokenizer"]]
    assert complete("athanor runs show ")[0] == [stored["pretrain"], stored["sft"]]
    assert complete("athanor documents s")[0] == [stored["sft"]]
    assert complete("athanor rm sf")[0] == [stored["sft"]]
    assert complete("athanor generate pre")[0] == [stored["pretrain"]]
    assert complete("athanor generate acq")[0] == []


def test_fields_of_the_preset_on_the_command_line():
    assert complete("athanor run quickstart --set pretrain.peak")[0] == ["pretrain.peak_lr"]
    assert complete("athanor plan quickstart --set data.sources.stem.hub_c")[0] == ["data.sources.stem.hub_config"]
    assert complete("athanor run quickstart --only data --set data.mixture.start.c")[0] == ["data.mixture.start.code"]
    assert complete("athanor run quickstart --set pretrain.steps=9 --sweep model.n_l")[0] == ["model.n_layers"]
    assert complete("athanor run nosuch --set data.mix")[0] == [
        f"data.mixture.{name}" for name in ("anneal_fraction", "filter.max_token_share", "filter.min_entropy_nats",
                                            "filter.max_broken_share")
    ]  # fmt: skip


@pytest.mark.parametrize("line", ["run qu", "show acq", "runs show pre", "generate pre", "run quickstart --set data.s"])
def test_an_answer_loads_nothing_that_one_waits_for(line, stored):
    names, loaded = complete(f"athanor {line}", sys.executable, "-P", "-c", IMPORTED)
    assert names and not HEAVY & set(loaded.split())
    assert "athanor.flows.cli.completing" in loaded

"""A stage is one file: what it declares is in its part's flow and in the plan, is built, and is then cached."""

from __future__ import annotations

import importlib
import json
import sys

import pytest
from prefect import flow
from prefect.client.orchestration import get_client
from prefect.states import Completed
from prefect.testing.utilities import prefect_test_harness
from task_runs import ended_task_runs

import athanor.flows.chain
import athanor.tasks
from athanor.core import digests
from athanor.core.errors import UserError
from athanor.core.kinds import Kinds
from athanor.core.runtime import Runtime
from athanor.core.store import Store
from athanor.flows.chain import Chain
from athanor.flows.data import data_flow
from athanor.flows.plan.plan import check_ready, make_plan
from athanor.flows.plan.survey import Survey
from athanor.flows.presets.preset import load_preset
from athanor.flows.side_by_side import SideBySide
from athanor.tasks.parts import FLOWS
from athanor.tasks.preset_recipe import Preset
from athanor.tasks.stage import STAGES, parent_keys, stages_of

TOY = """
from athanor.core.recipe import Recipe
from athanor.tasks.cost import Cost
from athanor.tasks.stage import Stage, Wanted


class ToyRecipe(Recipe):
    text: str


def wanted(life):
    yield Wanted("toy", "toy", ToyRecipe(text=life.preset.name), {"tokenizer": life.one("tokenizer")})


def cost(recipe, preset, *, tokenizer):
    return Cost(7.0, disk_bytes=100.0)


def build(recipe, run, *, tokenizer):
    (run.out / "text").write_text(f"{recipe.text} {tokenizer.facts['vocab_size']}")
    return {"length": len(recipe.text)}


STAGE = Stage("toy", part="data", wanted=wanted, cost=cost, build=build)
"""
OURS = ("acquire", "checkpoint", "tokenizer", "tokenize", "pretrain", "chat", "sft", "evaluate", "interpret", "report")
TINY = (
    "data.sources.math.max_documents=100", "data.sources.stem.max_documents=2", "data.sources.code.max_documents=2",
    "tokenizer.vocab_size=300", "tokenizer.train_bytes=2000", "runtime.device=cpu",
)  # fmt: skip
PRICED = Runtime(price_usd_per_hour=3.0)


@pytest.fixture(scope="module")
def server():
    """A Prefect server of this file's own."""
    with prefect_test_harness(server_startup_timeout=120):
        yield


@pytest.fixture
def toy(tmp_path, monkeypatch):
    """The stages with one more, whose file is all there is of it."""
    (tmp_path / "toy.py").write_text(TOY)
    monkeypatch.setattr(athanor.tasks, "__path__", [*athanor.tasks.__path__, str(tmp_path)])
    monkeypatch.setitem(vars(STAGES), "table", Kinds("stage", "athanor.tasks", "STAGE").table)
    yield STAGES["toy"]
    del sys.modules["athanor.tasks.toy"]


def test_a_new_stage_is_its_file_alone(toy, server):
    preset = load_preset("quickstart", TINY)
    estimates = {found.stage: estimate for found, estimate in make_plan(preset, "data").stages}
    assert [name for name in estimates if name in (*OURS, "toy")] == ["acquire", "tokenizer", "tokenize", "toy"]
    assert (estimates["toy"].wall_s, estimates["toy"].source, estimates["toy"].disk_bytes) == (7.0, "assumed", 100.0)
    assert "toy" in {found.stage for found, _ in make_plan(preset).stages}
    assert "toy" not in {found.stage for found, _ in make_plan(preset, "report").stages}

    with get_client(sync_client=True) as client:
        for name in ("Completed", "Cached"):
            state = data_flow(preset, return_state=True)
            assert state.is_completed(), state.message
            runs = ended_task_runs(client, {state.state_details.flow_run_id}, {"toy toy"})
            (run,) = [r for r in runs if r.name == "toy toy"]
            assert run.state_name == name
    (artifact,) = [a for a in Store().artifacts() if a.stage == "toy"]
    assert (artifact.path / "text").read_text() == "quickstart 300"
    assert artifact.facts == {"length": len("quickstart")}
    assert {found.state for found, _ in make_plan(preset, "data").stages} == {"cached"}


def test_a_task_run_follows_those_that_made_what_it_is_made_from(server):
    preset = load_preset("quickstart", TINY)
    titles = {w.artifact.key: f"{w.stage} {w.artifact.label}" for w in Survey(preset).needed_by("data")}
    expected = {
        (f"{found.stage} {found.artifact.label}", titles[key])
        for found in Survey(preset).needed_by("data")
        for key in parent_keys(found.wanted.inputs).values()
    }
    assert len(expected) == 3 + 2 * 3
    for _ in ("built", "cached"):
        state = data_flow(preset, return_state=True)
        with get_client(sync_client=True) as client:
            runs = ended_task_runs(
                client, {state.state_details.flow_run_id}, {name for pair in expected for name in pair}
            )
        names = {run.id: run.name for run in runs}
        found = {
            (run.name, names[parent.id]) for run in runs for parents in run.task_inputs.values() for parent in parents
        }
        assert found == expected


@flow
def refused_flow(preset: Preset) -> None:
    Chain(preset).make("sft")


def test_what_is_refused_after_training_is_refused_before_it_as_soon_as_that_can_be_told(server):
    problems = '{"builtin": "word-problems", "max_documents": 20}'
    lossy = (f"sft.source={problems}", "sft.train.seq_len_tokens=16", "sft.train.batch_tokens=64")
    lossy += ("pretrain.steps=2", "pretrain.warmup_steps=1", "pretrain.batch_tokens=256", "pretrain.eval_tokens=256")
    state = refused_flow(load_preset("quickstart", [*TINY, *lossy]), return_state=True)
    error = state.result(raise_on_failure=False)
    assert isinstance(error, UserError) and "sft.max_lost_fraction" in str(error)
    built = {artifact.stage for artifact in Store().artifacts()}
    assert "chat" in built and "pretrain" not in built


def test_every_part_and_the_lifecycle_have_a_flow_of_their_name():
    for name in FLOWS:
        flow = getattr(importlib.import_module(f"athanor.flows.{name}"), f"{name}_flow")
        assert flow.name == f"{name}-flow"


def test_a_stage_that_no_flow_would_make_is_refused_when_it_is_declared(toy):
    with pytest.raises(TypeError, match=r"stage toy: there is no part 'date', there are data, pretrain, sft"):
        type(toy)(toy.name, "date", toy.wanted, toy.cost, toy.build)


def test_only_the_stages_of_a_part_are_its_own_and_the_parts_come_in_order():
    assert [stage.name for stage in stages_of("sft") if stage.name in OURS] == ["chat", "sft"]
    assert tuple(stage.name for stage in stages_of() if stage.name in OURS) == OURS


def test_what_would_fail_later_fails_before_the_first_stage():
    for setting in ("tokenizer.path=gone", "data.sources.math.path=gone.txt", "evaluate.tasks.x.name=gsm9k"):
        with pytest.raises(UserError, match=r"gone|gsm9k"):
            Chain(load_preset("quickstart", [setting])).check()


@flow
def acquire_flow(preset: Preset) -> None:
    chain = Chain(preset)
    chain.check()
    chain.all("acquire")
    chain.build()


def test_a_users_file_is_hashed_once_over_a_plan_and_two_runs(tmp_path, small_preset, monkeypatch, server):
    hashed = []
    sha256_file = digests.sha256_file
    monkeypatch.setattr(digests, "sha256_file", lambda path: hashed.append(path.name) or sha256_file(path))
    monkeypatch.setattr(digests, "RACY_S", -1.0)  # however new the file is
    text = tmp_path / "text.jsonl"
    text.write_text("".join(json.dumps({"text": f"document {n}"}) + "\n" for n in range(50)))
    preset = small_preset(*(f"data.sources.{name}.path={text}" for name in ("math", "stem")))

    assert make_plan(preset).errors == []
    for _ in range(2):
        check_ready(preset, "data")
        assert acquire_flow(preset, return_state=True).is_completed()
    assert hashed == ["text.jsonl"]
    with text.open("a") as file:
        file.write('{"text": "one more"}\n')
    assert make_plan(preset).errors == []
    assert hashed == ["text.jsonl"] * 2


@pytest.fixture
def ran(monkeypatch) -> list[tuple[str, Runtime]]:
    """Stages run nothing; the runtime each was given, by name."""
    given = []

    def run(stage, wanted, runtime, decision, made):
        given.append((stage.name, runtime))
        made[stage.artifact(wanted, Store()).key] = Completed()

    monkeypatch.setattr(athanor.flows.chain, "run_stage", run)
    monkeypatch.setattr(SideBySide, "places_for", lambda self, ready: [])
    return given


def test_conversations_come_before_training_however_much_is_cached(small_preset, publish, ran):
    preset = small_preset()
    for stage in Survey(preset).needed_by("data"):
        publish(stage)
    Chain(preset).make("sft")
    built = [name for name, _ in ran]
    assert max(built.index("chat"), len(built) - 1 - built[::-1].index("acquire")) < built.index("pretrain")


def test_only_what_may_be_built_is_given_a_runtime_of_its_own(small_preset, publish, ran):
    preset = small_preset()
    for stage in Survey(preset).needed_by("data"):
        publish(stage)
    Chain(preset, runtime_of=lambda stage, artifact: PRICED).make("pretrain")
    assert {name for name, runtime in ran if runtime != PRICED} == {"acquire", "tokenizer", "tokenize"}
    assert [name for name, runtime in ran if runtime == PRICED] == ["pretrain"]


def test_what_may_be_drifted_and_so_built_again_has_it_too(small_preset, publish, ran):
    preset = small_preset("runtime.rebuild_drifted=true")
    for stage in Survey(preset).needed_by("data"):
        publish(stage)
    Chain(preset, runtime_of=lambda stage, artifact: PRICED).make("data")
    assert ran and all(runtime == PRICED for _, runtime in ran)

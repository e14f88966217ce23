"""Stages that wait for nothing are built at once, as far as cores, memory and GPUs reach."""

from __future__ import annotations

import os
import signal
import time
from typing import Any

import pytest
from prefect import flow
from prefect.client.orchestration import get_client
from prefect.states import Completed
from prefect.testing.utilities import prefect_test_harness
from task_runs import ended_task_runs

import athanor.flows.chain
import athanor.flows.side_by_side
from athanor.core.errors import UserError
from athanor.core.runtime import Runtime
from athanor.core.store import Store
from athanor.flows.chain import Chain
from athanor.flows.presets.preset import load_preset
from athanor.flows.room import Needs, Room
from athanor.flows.side_by_side import Asked, SideBySide, _Begun
from athanor.tasks.preset_recipe import Preset
from athanor.tasks.stage import StageRun
from athanor.tasks.stage_process import StageProcess
from athanor.tasks.trainer.process.exit_codes import Preempted

SOURCES = ("math", "stem", "code")
TINY = (
    "data.sources.math.max_documents=3000", "data.sources.stem.max_documents=3",
    "data.sources.code.max_documents=3", "sft.source.max_documents=3000", "runtime.device=cpu", "runtime.retries=0",
)  # fmt: skip


@pytest.fixture(scope="module")
def server():
    """A Prefect server of this file's own."""
    with prefect_test_harness(server_startup_timeout=120):
        yield


@pytest.fixture
def roomy(monkeypatch) -> Room:
    """A machine with four cores, whatever this one has."""
    room = Room(cores=4, memory_bytes=1e12)
    monkeypatch.setattr(Room, "of_this_machine", classmethod(lambda cls, runtime: room))
    return room


def asked_for(preset: Preset, stage: str) -> list[Asked]:
    chain = Chain(preset)
    chain.all(stage)
    return [asked for asked in chain._asked if asked.stage.name == stage]


def test_one_that_would_be_alone_has_no_place_and_is_built_by_the_flow(roomy):
    one, *others = asked_for(load_preset("quickstart", TINY), "acquire")
    assert SideBySide(load_preset("quickstart", TINY)).places_for([one]) == []
    roomy.cores = 1
    assert SideBySide(load_preset("quickstart", TINY)).places_for([one, *others]) == [] and not roomy.taken


def test_training_waits_for_what_needs_none_and_comes_alone_and_then_all_that_is_made_from_it(
    small_preset, monkeypatch, roomy
):
    preset, log = small_preset(), []

    class Recorded(SideBySide):
        def make_room(self):
            super().make_room()
            log.append("room")

        def begin(self, asked, place, runtime, decision, ends):
            log.append(f"begin {asked.stage.name}")
            self._begun[asked.key] = begun = _Begun(asked, place, StageProcess(), lambda: end(asked, ends))
            self._over.put(begun.asked.key)

    def end(asked, ends):
        ends[asked.key] = Completed()

    def run(stage, wanted, runtime, decision, made):
        assert not (stage.trains and roomy.taken), "something is built beside the training"
        log.append(stage.name)
        end(Asked(stage, wanted), made)

    monkeypatch.setattr(athanor.flows.chain, "run_stage", run)
    monkeypatch.setattr(athanor.flows.chain, "SideBySide", Recorded)
    monkeypatch.setattr(athanor.flows.side_by_side, "needs_of", lambda wanted, preset: Needs(1.0))
    Chain(preset).make("lifecycle")
    order = list(dict.fromkeys(log))
    before = max(place for place, entry in enumerate(log) if entry.endswith(("tokenize", "chat")))
    assert before < log.index("pretrain") and order.index("room") < order.index("pretrain") < order.index(
        "sft"
    ) < order.index("begin evaluate")
    assert log.count("begin acquire") == 4 and log.count("begin evaluate") == 8 and log.count("begin interpret") == 2
    assert log[-1] == "report"


@flow
def acquire_flow(preset: Preset) -> None:
    chain = Chain(preset)
    chain.all("acquire")
    chain.one("acquire", "sft.source")
    chain.build()


def test_sources_are_acquired_at_once_and_their_shares_of_the_time_add_up(server, roomy):
    started = time.monotonic()
    state = acquire_flow(load_preset("quickstart", TINY), return_state=True)
    passed_s = time.monotonic() - started
    assert state.is_completed(), state.message
    titles = {f"acquire {name}" for name in (*SOURCES, "sft.source")}
    with get_client(sync_client=True) as client:
        runs = ended_task_runs(client, {state.state_details.flow_run_id}, titles)
    assert {run.name for run in runs} == titles
    assert max(run.start_time for run in runs) < min(run.end_time for run in runs)
    whole = [artifact for artifact in Store().artifacts() if Store().problem(artifact, verify=True) is None]
    assert len(whole) == len(titles)
    assert 0 < sum(artifact.manifest["wall_s"] for artifact in whole) <= passed_s
    assert not roomy.taken


def test_a_mistake_in_one_is_told_once_what_was_begun_beside_it_is_whole(server, roomy, tmp_path):
    (tmp_path / "bad.jsonl").write_text('{"words": "no text"}\n' * 50)
    preset = load_preset("quickstart", [*TINY, f"data.sources.stem.path={tmp_path / 'bad.jsonl'}"])
    state = acquire_flow(preset, return_state=True)
    error = state.result(raise_on_failure=False)
    assert isinstance(error, UserError) and "bad.jsonl" in str(error)
    assert {artifact.label for artifact in Store().artifacts()} == {"math", "code", "sft.source"}


@pytest.fixture
def build(tmp_path):
    """Builds a source in a process; `log` hears what it says."""
    (asked,) = [a for a in asked_for(load_preset("quickstart", TINY), "acquire") if a.wanted.member == "math"]

    def run(process: StageProcess, log=print, inputs: Any = asked.wanted.inputs) -> dict:
        (tmp_path / "out").mkdir(exist_ok=True)
        run = StageRun(tmp_path / "out", asked.key, Runtime(), log, lambda done, total, unit: None)
        return process.build(asked.stage, asked.wanted.recipe, run, inputs)

    return run


def test_a_process_is_kept_and_one_that_was_killed_is_started_again_when_it_is_tried_again(build):
    process, said = StageProcess(), []
    facts = build(process, said.append)
    assert facts["held_out_documents"] and said[0].startswith("held out")
    first = process._process
    assert build(process) == facts and process._process is first and first is not None

    class KillsItBeforeItIsAsked:
        def keys(self) -> list[str]:
            os.kill(first.pid, signal.SIGKILL)
            first.wait()
            return []

    with pytest.raises(Preempted, match=r"built acquire ended: SIGKILL"):
        build(process, inputs=KillsItBeforeItIsAsked())
    assert build(process) == facts and process._process is not first
    process.end()
    with pytest.raises(UserError, match="was interrupted; the same command continues"):
        build(process)


def test_a_process_ends_with_whoever_started_it(build):
    process = StageProcess()
    build(process)
    assert process._process is not None and process._connection is not None
    process._connection.close()
    assert process._process.wait(60) == 1

"""Stages that wait for nothing are built at once, as far as cores, memory and GPUs reach."""

from __future__ import annotations

import os
import signal
import time
from typing import Any

import pytest
import torch
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
from athanor.flows.plan.survey import Survey
from athanor.flows.presets.preset import load_preset
from athanor.flows.side_by_side import PROCESS_BYTES, Asked, Needs, Room, SideBySide, _Begun, needs_of
from athanor.tasks.preset_recipe import Preset
from athanor.tasks.stage import StageRun
from athanor.tasks.stage_process import StageProcess
from athanor.tasks.trainer.process.exit_codes import Preempted

SOURCES = ("math", "stem", "code")
TINY = (
    "data.sources.math.max_documents=3000", "data.sources.stem.max_documents=3",
    "data.sources.code.max_documents=3", "sft.source.max_documents=3000", "runtime.device=cpu", "runtime.retries=0",
)  # fmt: skip
WITH_MODEL = Needs(1000.0, gpu=True)


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


def test_as_many_run_as_there_are_cores():
    room = Room(cores=2, memory_bytes=1e12)
    first, second = room.take(Needs(1.0)), room.take(Needs(1.0))
    assert first is not None and second is not None and room.take(Needs(1.0)) is None
    room.leave(first)
    assert room.take(Needs(1.0)) is not None


def test_never_more_memory_than_is_free_but_for_one_that_is_alone():
    room = Room(cores=8, memory_bytes=2500.0)
    assert room.take(Needs(1500.0)) and room.take(Needs(1000.0))
    assert room.take(Needs(1.0)) is None
    assert Room(cores=8, memory_bytes=10.0).take(Needs(1000.0)) is not None


def test_never_two_on_one_gpu():
    room = Room(cores=8, memory_bytes=1e12, gpus=["0", "3"])
    places = [room.take(WITH_MODEL) for _ in range(3)]
    assert [place and place.gpu for place in places] == ["0", "3", None] and places[2] is None
    beside = room.take(Needs(1.0))
    assert beside is not None and beside.gpu is None
    assert places[1] is not None
    room.leave(places[1])
    again = room.take(WITH_MODEL)
    assert again is not None and again.gpu == "3"


def test_one_gpu_holds_a_model_even_where_nothing_else_is_running():
    room = Room(cores=8, memory_bytes=1e12, gpus=["0"])
    assert room.take(WITH_MODEL) is not None and room.take(WITH_MODEL) is None


@pytest.mark.parametrize(("visible", "found"), [(None, ["0", "1"]), ("4,5,6", ["4", "5"])])
def test_of_the_gpus_there_are_a_run_takes_as_many_as_it_holds(monkeypatch, visible, found):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    if visible is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    else:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert Room.of_this_machine(Runtime(ranks=2)).gpus == found
    assert Room.of_this_machine(Runtime(device="cpu", ranks=2)).gpus == []


def asked_for(preset: Preset, stage: str) -> list[Asked]:
    chain = Chain(preset)
    chain.all(stage)
    return [asked for asked in chain._asked if asked.stage.name == stage]


def test_what_reads_with_a_model_needs_its_weights_and_a_batch_of_its_rows(small_preset, publish):
    preset = small_preset()
    for found in Survey(preset).needed_by("pretrain"):
        publish(found, files={"model.safetensors": "x" * 5000} if found.stage == "pretrain" else None)
    evaluation, source = asked_for(preset, "evaluate")[0], asked_for(preset, "acquire")[0]
    assert needs_of(source, preset) == Needs(PROCESS_BYTES, gpu=False)
    found = needs_of(evaluation, preset)
    longer = needs_of(evaluation, small_preset("model.max_seq_len=1024"))
    assert found.gpu and found.memory_bytes > PROCESS_BYTES + 2 * 5000
    assert longer.memory_bytes > found.memory_bytes


def test_one_that_would_be_alone_has_no_place_and_is_built_by_the_flow(roomy):
    one, *others = asked_for(load_preset("quickstart", TINY), "acquire")
    assert SideBySide(load_preset("quickstart", TINY)).places_for([one]) == []
    roomy.cores = 1
    assert SideBySide(load_preset("quickstart", TINY)).places_for([one, *others]) == [] and not roomy.taken


def test_training_comes_first_and_alone_and_then_all_that_is_made_from_it(small_preset, monkeypatch, roomy):
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
    monkeypatch.setattr(athanor.flows.side_by_side, "needs_of", lambda asked, preset: Needs(1.0))
    Chain(preset).make("lifecycle")
    order = list(dict.fromkeys(log))
    assert order.index("room") < order.index("pretrain") < order.index("sft") < order.index("begin evaluate")
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

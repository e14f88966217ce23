"""What is built at once fits the cores and the memory, and has a GPU for itself."""

from __future__ import annotations

import pytest
import torch

from athanor.core.runtime import Runtime
from athanor.flows.plan.survey import Survey
from athanor.flows.room import PROCESS_BYTES, Needs, Room, needs_of

WITH_MODEL = Needs(1000.0, gpu=True)


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


def test_what_reads_with_a_model_needs_its_weights_and_a_batch_of_its_rows(small_preset, publish):
    preset, wanted = small_preset(), {}
    for found in Survey(preset).needed_by("lifecycle"):
        wanted.setdefault(found.stage, found.wanted)
        if found.record.trains:
            publish(found, files={"model.safetensors": "x" * 5000})
    assert needs_of(wanted["acquire"], preset) == Needs(PROCESS_BYTES, gpu=False)
    for stage in ("evaluate", "interpret"):
        needs = needs_of(wanted[stage], preset)
        assert needs.gpu and needs.memory_bytes > PROCESS_BYTES + 2 * 5000
        assert needs_of(wanted[stage], small_preset("model.max_seq_len=1024")).memory_bytes > needs.memory_bytes

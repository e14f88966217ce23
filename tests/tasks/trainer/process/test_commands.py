"""What starts the ranks, what they may be asked for, and what their end means."""

import json
from types import SimpleNamespace

import pytest
import torch
from pydantic import ValidationError

from athanor.core.errors import UserError
from athanor.core.run_files import HOSTS
from athanor.core.runtime import Runtime
from athanor.models.device import choose_device
from athanor.tasks.trainer.engines.build import build_engine, check_world
from athanor.tasks.trainer.process.commands import command
from athanor.tasks.trainer.process.exit_codes import ExitCode, exit_of
from athanor.tasks.trainer.process.launch import IoFailure, OutOfMemory, Preempted, run_trainer
from athanor.tasks.trainer.process.outcome import Outcome, read_outcome
from athanor.tasks.trainer.process.world import ALONE, World
from athanor.tasks.trainer.start import read_spec
from athanor.tasks.trainer.step.batches import note_smaller_slices, slice_tokens


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"engine": "single", "ranks": 2}, "engine=single is one process, but ranks=2"),
        ({"nodes": 2}, "nodes=2 needs rendezvous=HOST:PORT"),
        ({"rendezvous": "here:1"}, "rendezvous=here:1 is for several machines"),
        ({"zero_stage": 2}, "zero_stage=2 needs engine=deepspeed, not engine=auto"),
        ({"engine": "fsdp", "offload": "optimizer"}, "offload=optimizer needs engine=deepspeed, not engine=fsdp"),
        ({"engine": "deepspeed", "offload": "parameters"}, "offload=parameters needs zero_stage=3, not zero_stage=2"),
    ],
)
def test_impossible_combinations_name_their_fields(fields, named):
    with pytest.raises(ValidationError, match=named):
        Runtime(**fields)


def test_one_rank_is_one_process_and_more_are_ddp():
    assert Runtime().training_engine == "single"
    assert Runtime(ranks=2).training_engine == "ddp"
    assert Runtime.model_validate(Runtime(ranks=2).model_dump()) == Runtime(ranks=2)


def test_a_batch_that_ranks_cannot_share_is_refused(make_run):
    spec = read_spec(make_run("run", runtime={"ranks": 3}))
    with pytest.raises(UserError, match=r"batch_tokens=256 are 8 rows, which 3 ranks .* a multiple of 96"):
        check_world(spec.runtime, spec.train, World(size=3))
    with pytest.raises(UserError, match="ask for 3 ranks, but the launcher started 1"):
        check_world(spec.runtime, spec.train, ALONE)


def test_more_ranks_than_gpus_are_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert choose_device("auto", 1) == torch.device("cuda", 1)
    with pytest.raises(UserError, match="more than the 2 GPUs"):
        choose_device("cuda", 2)


@pytest.mark.parametrize(("engine", "optimizer"), [("fsdp", "adafactor"), ("deepspeed", "muon")])
def test_an_optimizer_that_an_engine_cannot_shard_is_refused(make_run, engine, optimizer):
    spec = read_spec(make_run("run", train={"optimizer": optimizer}, runtime={"engine": engine, "ranks": 2}))
    model, device = torch.nn.Module(), torch.device("cpu")
    with pytest.raises(UserError, match=f"engine={engine} shards what train.optimizer={optimizer} needs whole"):
        build_engine(model, lambda model: None, spec.runtime, spec.train, World(size=2), device, torch.float32)


def test_every_machine_has_its_own_command(tmp_path):
    torchrun = command(tmp_path, Runtime(ranks=4, nodes=2, rendezvous="head:29500"), node=1)
    assert torchrun[3:] == [
        *("torch.distributed.run", "--nnodes=2", "--node-rank=1", "--master-addr=head", "--master-port=29500"),
        *("--nproc-per-node=4", "--module", "athanor.tasks.trainer", str(tmp_path)),
    ]
    deepspeed = command(tmp_path, Runtime(engine="deepspeed", ranks=4, nodes=2, rendezvous="head:29500"), node=1)
    assert deepspeed[3:] == [
        *("deepspeed.launcher.runner", "--no_local_rank", "--num_gpus=4", "--no_ssh", "--node_rank=1"),
        *("--master_addr=head", "--master_port=29500", f"--hostfile={tmp_path / HOSTS}"),
        *("--module", "athanor.tasks.trainer", str(tmp_path)),
    ]
    assert (tmp_path / HOSTS).read_text() == "node-0 slots=4\nnode-1 slots=4\n"


def test_the_first_rank_of_an_attempt_is_believed_and_another_attempt_is_not(tmp_path):
    Outcome("old", ExitCode.FAILED, "long ago").leave(tmp_path)
    Outcome("new", ExitCode.OUT_OF_MEMORY, "no memory").leave(tmp_path)
    Outcome("new", ExitCode.PREEMPTED, "another rank is gone").leave(tmp_path)
    assert read_outcome(tmp_path) == Outcome("new", ExitCode.OUT_OF_MEMORY, "no memory")
    assert [path.name for path in tmp_path.iterdir()] == ["outcome.json"]


@pytest.mark.parametrize(
    ("said", "printed", "error"),
    [
        ((2, "some field"), "Traceback", UserError("some field")),
        ((75, "stopped"), "", Preempted("stopped")),
        ((71, "no memory"), "", OutOfMemory("no memory")),
        ((74, "disk full"), "", IoFailure("disk full")),
        ((1, "ValueError: x"), "", RuntimeError("the training process failed (exit 1): ValueError: x; see LOG")),
        (None, "  exitcode  : -9 (pid: 7)", Preempted("the training process was killed by SIGKILL; see LOG")),
        (None, "[...] exits with return code = -9", Preempted("the training process was killed by SIGKILL; see LOG")),
        (None, "no such module", RuntimeError("the training process failed (exit 1): no such module; see LOG")),
    ],
)
def test_the_end_of_the_ranks_is_what_one_of_them_said_else_what_the_launcher_said(
    tmp_path, monkeypatch, said, printed, error
):
    Outcome("earlier", ExitCode.USER_ERROR, "not this attempt").leave(tmp_path)
    lines = ["#!/bin/sh", f"echo '{printed}'"]
    if said is not None:
        outcome = json.dumps({"attempt": "ATTEMPT", "exit": said[0], "message": said[1]})
        lines.append(f"echo '{outcome}' | sed s/ATTEMPT/$ATHANOR_ATTEMPT/ > {tmp_path}/outcome.json")
    script = tmp_path / "launcher"
    script.write_text("\n".join([*lines, "exit 1"]) + "\n")
    script.chmod(0o755)
    monkeypatch.setattr("athanor.tasks.trainer.process.commands.sys.executable", str(script))
    with pytest.raises(type(error)) as raised:
        run_trainer(tmp_path, lambda row: None, Runtime(ranks=2))
    assert str(raised.value) == str(error).replace("LOG", str(tmp_path / "trainer.log"))


def test_ranks_that_ran_out_of_memory_try_half_the_slice_next_time(make_run):
    folder = make_run("run")
    spec, device = read_spec(folder), torch.device("cpu")
    assert slice_tokens(folder, spec, device, ALONE) == 4 * 32
    note_smaller_slices(folder, 4 * 32)
    assert slice_tokens(folder, spec, device, ALONE) == 2 * 32


def test_a_slice_is_no_more_than_a_rank_has(make_run, tmp_path):
    spec = read_spec(make_run("run", runtime={"micro_batch_rows": None, "ranks": 4}))
    world = SimpleNamespace(size=4, first=True, from_first=lambda value: value)
    assert slice_tokens(tmp_path, spec, torch.device("cpu"), world) == 2 * 32


@pytest.mark.parametrize("said", ["Connection closed by peer [127.0.0.1]:29500", "Connection reset by peer"])
def test_losing_contact_with_a_rank_is_a_preemption(said):
    assert exit_of(RuntimeError(f"[pair.cc:534] {said}")) is ExitCode.PREEMPTED
    assert exit_of(torch.distributed.DistNetworkError("gone")) is ExitCode.PREEMPTED

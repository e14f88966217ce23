"""What starts the ranks, what they may be asked for, and what their end means."""

import pytest
import torch

from athanor.core.errors import UserError
from athanor.core.run_files import HOSTS
from athanor.core.runtime import Runtime
from athanor.models.device import choose_device
from athanor.tasks.trainer.process.commands import command, environment
from athanor.tasks.trainer.process.grace import Grace


def test_more_ranks_than_gpus_are_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert [choose_device("auto", rank) for rank in (0, 1)] == [torch.device("cuda", rank) for rank in (0, 1)]
    with pytest.raises(UserError, match="more than the 2 GPUs"):
        choose_device("cuda", 2)


def test_torchrun_waits_for_a_stop_as_long_as_the_flow_does(tmp_path):
    Grace(tmp_path).measured(slice_s=100.0, save_s=50.0)
    assert "--shutdown-timeout=480" in command(tmp_path, Runtime(ranks=2))


@pytest.mark.parametrize("engine", ["single", "ddp", "fsdp", "deepspeed"])
def test_no_process_of_a_run_imports_from_the_folder_it_is_started_in(tmp_path, engine):
    runtime = Runtime(device="cpu", engine=engine, ranks=1)
    assert command(tmp_path, runtime)[1:3] == ["-P", "-m"]
    assert environment(runtime)["PYTHONSAFEPATH"] == "1", "-P alone does not reach what the launcher starts"


def test_every_machine_has_its_own_command(tmp_path):
    torchrun = command(tmp_path, Runtime(ranks=4, nodes=2, rendezvous="head:29500"), node=1)
    assert torchrun[3:] == [
        *("torch.distributed.run", "--nnodes=2", "--node-rank=1", "--master-addr=head", "--master-port=29500"),
        *("--nproc-per-node=4", "--shutdown-timeout=30", "--module", "athanor.tasks.trainer", str(tmp_path)),
    ]
    deepspeed = command(tmp_path, Runtime(engine="deepspeed", ranks=4, nodes=2, rendezvous="head:29500"), node=1)
    assert deepspeed[3:] == [
        *("deepspeed.launcher.runner", "--no_local_rank", "--num_gpus=4", "--no_ssh", "--node_rank=1"),
        *("--master_addr=head", "--master_port=29500", f"--hostfile={tmp_path / HOSTS}"),
        *("--module", "athanor.tasks.trainer", str(tmp_path)),
    ]
    assert (tmp_path / HOSTS).read_text() == "node-0 slots=4\nnode-1 slots=4\n"

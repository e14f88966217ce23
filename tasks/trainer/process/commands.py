"""Which command starts the ranks of a run on one machine: the trainer itself, torchrun, or DeepSpeed's launcher.

Several machines meet at `rendezvous`, an address of the first, with fixed ranks: the first machine has rank 0, which
writes, and the flow that follows the run. On each of the others its own command is run by hand or by the cluster.
"""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path

from athanor.core.runtime import Runtime

HOSTS = "hostfile"


def command(run_dir: Path, runtime: Runtime, node: int = 0) -> list[str]:
    """What to run on the machine number `node`."""
    trainer = ["athanor.tasks.trainer", str(run_dir)]
    python = [sys.executable, "-P", "-m"]
    if runtime.training_engine == "single":
        return [*python, *trainer]
    if runtime.training_engine == "deepspeed":
        return [*python, "deepspeed.launcher.runner", *_deepspeed(run_dir, runtime, node), "--module", *trainer]
    return [*python, "torch.distributed.run", *_torchrun(runtime, node), "--module", *trainer]


def environment(runtime: Runtime) -> dict[str, str]:
    """What the command needs beside the environment there is: no rank may import from the user's folder."""
    needed = {"PYTHONSAFEPATH": "1"}
    if runtime.training_engine == "deepspeed":
        from athanor.models.device import choose_device

        needed["DS_ACCELERATOR"] = choose_device(runtime.device).type
    return needed


def _torchrun(runtime: Runtime, node: int) -> list[str]:
    processes = f"--nproc-per-node={runtime.ranks}"
    if runtime.rendezvous is None:
        return ["--standalone", "--local-addr=127.0.0.1", processes]
    host, port = runtime.rendezvous.rsplit(":", 1)
    where = [f"--nnodes={runtime.nodes}", f"--node-rank={node}", f"--master-addr={host}", f"--master-port={port}"]
    return [*where, processes]


def _deepspeed(run_dir: Path, runtime: Runtime, node: int) -> list[str]:
    shape = ["--no_local_rank", f"--num_gpus={runtime.ranks}"]
    if runtime.rendezvous is None:
        return [*shape, f"--master_port={_free_port()}", f"--hostfile={os.devnull}"]
    hosts = run_dir / HOSTS
    hosts.write_text("".join(f"node-{number} slots={runtime.ranks}\n" for number in range(runtime.nodes)))
    host, port = runtime.rendezvous.rsplit(":", 1)
    where = ["--no_ssh", f"--node_rank={node}", f"--master_addr={host}", f"--master_port={port}"]
    return [*shape, *where, f"--hostfile={hosts}"]


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]

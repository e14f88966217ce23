"""How the ranks of a run are started on one machine: directly, by torchrun, or by DeepSpeed's launcher.

Several machines meet at `rendezvous`, an address of the first, with fixed ranks: the first machine has rank 0, which
writes, and the flow that follows the run. On each of the others its own command is run by hand or by the cluster.
"""

from __future__ import annotations

import math
import os
import socket
from abc import ABC, abstractmethod
from pathlib import Path

from athanor.core.run_files import HOSTS
from athanor.core.runtime import Runtime
from athanor.tasks.trainer.process.grace import grace_s


class Launcher(ABC):
    """What stands between the flow and the trainer. `says_it_all`: whether its exit code is the trainer's own."""

    says_it_all = False

    @abstractmethod
    def arguments(self, run_dir: Path, runtime: Runtime, node: int) -> list[str]:
        """Between `python -m` and the trainer's module, on the machine number `node`."""

    def environment(self, runtime: Runtime) -> dict[str, str]:
        """Variables that only this launcher needs."""
        return {}


class Direct(Launcher):
    """No launcher: the trainer is the process."""

    says_it_all = True

    def arguments(self, run_dir: Path, runtime: Runtime, node: int) -> list[str]:
        return []


class Torchrun(Launcher):
    """torch's own."""

    def arguments(self, run_dir: Path, runtime: Runtime, node: int) -> list[str]:
        processes = f"--nproc-per-node={runtime.ranks}"
        if runtime.rendezvous is None:
            where = ["--standalone", "--local-addr=127.0.0.1"]
        else:
            host, port = runtime.rendezvous.rsplit(":", 1)
            where = [f"--nnodes={runtime.nodes}", f"--node-rank={node}"]
            where += [f"--master-addr={host}", f"--master-port={port}"]
        patience = f"--shutdown-timeout={math.ceil(grace_s(run_dir))}"
        return ["torch.distributed.run", *where, processes, patience, "--module"]


class DeepSpeedRunner(Launcher):
    """DeepSpeed's, told not to reach for other machines itself."""

    def arguments(self, run_dir: Path, runtime: Runtime, node: int) -> list[str]:
        shape = ["--no_local_rank", f"--num_gpus={runtime.ranks}"]
        if runtime.rendezvous is None:
            where = [f"--master_port={_free_port()}", f"--hostfile={os.devnull}"]
        else:
            hosts = run_dir / HOSTS
            slots = (f"node-{number} slots={runtime.ranks}\n" for number in range(runtime.nodes))
            hosts.write_text("".join(slots), encoding="utf-8")
            host, port = runtime.rendezvous.rsplit(":", 1)
            where = ["--no_ssh", f"--node_rank={node}", f"--master_addr={host}", f"--master_port={port}"]
            where += [f"--hostfile={hosts}"]
        return ["deepspeed.launcher.runner", *shape, *where, "--module"]

    def environment(self, runtime: Runtime) -> dict[str, str]:
        from athanor.models.device import choose_device

        return {"DS_ACCELERATOR": choose_device(runtime.device).type}


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]

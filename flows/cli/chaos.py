"""`athanor-chaos`: does a run that is killed again and again end as one that is not?

A preset is trained twice from the same data: once in peace; once while the training process, or the flow with it,
gets SIGKILL at random moments, half of them inside the saving of a checkpoint. It is started again with the same
command until the wanted number of kills is reached; a run that ends before that is deleted and trained once more.
Compared are every byte of the weights and every number of the logs but times and money. With `--engines` every start
draws an engine, a number of ranks and of slices of its own; sums are then taken in another order, and what is compared
are the losses, within LOSS_TOLERANCE.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import psutil
import typer

from athanor.core.errors import UserError
from athanor.core.run_files import CHECKPOINTS, LOCK
from athanor.core.store import Artifact, Store
from athanor.flows.cli.options import PresetName, Settings
from athanor.flows.server.temporary import TemporaryServer
from athanor.tasks.stage import STAGES

PATIENCE_S = 120.0  # without a step of training, before an attempt counts as hanging
LONGEST_LIFE_S = 6.0  # of an attempt that trains, before it is killed
LOSS_TOLERANCE = 1e-5  # relative, of fp32 sums in another order
WAYS = tuple(
    (f"runtime.engine={engine}", f"runtime.ranks={ranks}", f"runtime.micro_batch_rows={rows}")
    for engine, ranks in (("single", 1), ("ddp", 2), ("fsdp", 2))
    for rows in (1, 2, 4)
)


@dataclass
class Tally:
    """What happened: kills of the training process and of the flow, those inside a save, comparisons, starts by engine
    and slices, differences."""

    trainer_kills: int = 0
    flow_kills: int = 0
    kills_inside_a_save: int = 0
    runs_compared: int = 0
    ways: Counter[str] = field(default_factory=Counter)
    largest_loss_difference: float = 0.0
    differences: list[str] = field(default_factory=list)

    @property
    def kills(self) -> int:
        """All together."""
        return self.trainer_kills + self.flow_kills


def chaos(
    preset: PresetName = "quickstart",
    kills: Annotated[int, typer.Option(min=1, help="SIGKILLs to survive")] = 20,
    seed: Annotated[int, typer.Option(min=0, help="Of the moments and the victims")] = 0,
    engines: Annotated[
        bool, typer.Option("--engines", help="Every start by another engine, with other ranks and slices")
    ] = False,
    settings: Settings = None,
) -> None:
    """Kill a run at random moments and compare its end with that of an undisturbed one.

    athanor-chaos quickstart --kills 50 --set pretrain.steps=60 --set sft.train.steps=20

    Prints a line for every kill and a summary as JSON; exit status 1 if a single bit differs, with --engines if a loss
    does by more than 1e-5 of itself.
    """
    tally, rng = Tally(), random.Random(seed)
    with TemporaryDirectory(prefix="athanor-chaos-") as scratch:
        if url := TemporaryServer().wait():
            os.environ["PREFECT_API_URL"] = url  # one server for all attempts
        command = [sys.executable, "-P", "-m", "athanor.flows.cli.main", "run", preset, "--only", "sft"]
        for override in (*(settings or ()), "runtime.retries=1000", "runtime.checkpoint_every_steps=7"):
            command += ["--set", override]
        peace, storm = Path(scratch) / "peace", Path(scratch) / "storm"
        if _start(command, peace).wait():
            raise UserError(f"the undisturbed run failed: see {peace}/attempts.log")  # printed before it is deleted
        _share_data(peace, storm)
        while tally.kills < kills:
            _weather(command, storm, rng, tally, kills, WAYS if engines else ((),))
            if engines:
                tally.largest_loss_difference = max(tally.largest_loss_difference, _loss_difference(peace, storm))
            else:
                tally.differences += _differences(peace, storm)
            tally.runs_compared += 1
            for artifact in _trained(storm):
                shutil.rmtree(artifact.path)
    print(json.dumps({**tally.__dict__, "kills": tally.kills}))
    raise typer.Exit(1 if tally.differences or tally.largest_loss_difference > LOSS_TOLERANCE else 0)


def _start(command: list[str], home: Path) -> subprocess.Popen:
    home.mkdir(parents=True, exist_ok=True)
    with open(home / "attempts.log", "ab") as log:
        environment = {**os.environ, "ATHANOR_HOME": str(home)}
        return subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log)


def _weather(
    command: list[str], home: Path, rng: random.Random, tally: Tally, kills: int, ways: Sequence[tuple[str, ...]]
) -> None:
    """Start the run, each time in one of the ways, until it is done, killing as long as kills are wanted."""
    flows_share = 0.2 if len(ways) == 1 else 0.6  # a flow that lives starts its next training in the same way
    while True:
        way = rng.choice(ways)
        tally.ways[" ".join(way)] += 1
        flow = _start([*command, *(word for setting in way for word in ("--set", setting))], home)
        while flow.poll() is None and tally.kills < kills:
            trainer = _kill_once(flow, rng, tally, flows_share)
            if trainer is not None:
                print(f"kill {tally.kills} of {kills}: {trainer}", flush=True)
        if flow.wait() == 0:
            return
        if flow.returncode > 0:
            said = (home / "attempts.log").read_text(errors="replace", encoding="utf-8").strip().splitlines()[-1:]
            raise UserError(f"an attempt failed and would have to be repaired by hand: {' '.join(said)}")


def _kill_once(flow: subprocess.Popen, rng: random.Random, tally: Tally, flows_share: float) -> str | None:
    """Wait for training to go on, then kill one of its ranks or the flow; what was done, None if the flow ended
    first."""
    trainer = _await_trainer(flow)
    if trainer is None:
        return None
    run_dir = Path(trainer.cmdline()[-1])
    inside_a_save = rng.random() < 0.5
    deadline = time.monotonic() + (PATIENCE_S if inside_a_save else rng.uniform(0.0, LONGEST_LIFE_S))
    while time.monotonic() < deadline and flow.poll() is None and trainer.is_running():
        if inside_a_save and any((run_dir / CHECKPOINTS).glob("*.partial")):
            break
        time.sleep(0.002)
    if flow.poll() is not None or not trainer.is_running():
        return None
    saving = any((run_dir / CHECKPOINTS).glob("*.partial"))
    victim = "flow" if rng.random() < flows_share else "trainer"
    try:
        os.kill(flow.pid if victim == "flow" else rng.choice(_ranks(trainer)).pid, signal.SIGKILL)
    except ProcessLookupError:
        return None
    if victim == "flow":
        tally.flow_kills += 1
        flow.wait()
    else:
        tally.trainer_kills += 1
        psutil.wait_procs([trainer], timeout=PATIENCE_S)
    tally.kills_inside_a_save += saving
    return f"{victim} of {run_dir.parent.name}{' inside a save' if saving else ''}"


def _await_trainer(flow: subprocess.Popen) -> psutil.Process | None:
    """The training process of the flow, once it has begun to train; None if the flow ends first."""
    deadline = time.monotonic() + PATIENCE_S
    while flow.poll() is None:
        if time.monotonic() > deadline:
            flow.kill()
            raise UserError(f"no training within {PATIENCE_S:.0f} s: the run hangs")
        for process in _children(flow.pid):
            try:
                line = process.cmdline()
                if "athanor.tasks.trainer" in line and (Path(line[-1]) / LOCK).exists():
                    return process
            except psutil.Error:
                continue
        time.sleep(0.02)
    return None


def _ranks(trainer: psutil.Process) -> list[psutil.Process]:
    """The processes that train: those that a launcher started, or the one there is."""
    started = [child for child in _children(trainer.pid) if "athanor.tasks.trainer" in child.cmdline()]
    return started or [trainer]


def _children(pid: int) -> list[psutil.Process]:
    try:
        return psutil.Process(pid).children()
    except psutil.Error:
        return []


def _share_data(source: Path, target: Path) -> None:
    """Everything but what was trained, so that the second home trains at once."""
    for stage in (source / "store").iterdir():
        if not STAGES[stage.name].trains:
            shutil.copytree(stage, target / "store" / stage.name, copy_function=os.link)


def _trained(home: Path) -> Iterator[Artifact]:
    return (artifact for artifact in Store(home / "store").artifacts() if STAGES[artifact.stage].trains)


def _differences(peace: Path, storm: Path) -> list[str]:
    """One line for each artifact whose weights or numbers differ, or that only one home has."""
    one, other = ({a.name: _digest(a.path) for a in _trained(home)} for home in (peace, storm))
    return [
        f"{name}: other {what}"
        for name in sorted(one.keys() | other.keys())
        for what in ("weights", "numbers in the log")
        if one.get(name, {}).get(what) != other.get(name, {}).get(what)
    ]


def _loss_difference(peace: Path, storm: Path) -> float:
    """The largest relative one among all losses that both homes logged; infinite where one lacks a row."""
    one, other = ({a.name: _losses(a.path) for a in _trained(home)} for home in (peace, storm))
    if one.keys() != other.keys() or any(one[name].keys() != other[name].keys() for name in one):
        return float("inf")
    pairs = ((value, other[name][at]) for name in one for at, value in one[name].items())
    return max(abs(a - b) / max(abs(a), 1e-12) for a, b in pairs)


def _losses(folder: Path) -> dict[tuple[int, str], float]:
    """Each loss of the log by its step and what it is of: the step's own, or a source's held-out text."""
    from athanor.tasks.trainer.records.metrics import reproducible_rows

    rows = reproducible_rows(folder)
    trained = {(row["step"], ""): row["loss"] for row in rows if row["kind"] == "step"}
    held_out = ((row["step"], row["held_out"]) for row in rows if row["kind"] == "eval")
    return trained | {(step, name): measured["loss"] for step, by in held_out for name, measured in by.items()}


def _digest(folder: Path) -> dict[str, str]:
    from athanor.tasks.trainer.records.metrics import reproducible_rows

    rows = json.dumps(reproducible_rows(folder)).encode()
    weights = (folder / "model.safetensors").read_bytes()
    return {"weights": hashlib.sha256(weights).hexdigest(), "numbers in the log": hashlib.sha256(rows).hexdigest()}


def main() -> None:
    """Entry point: a mistake of the user's is one line on stderr and exit status 2."""
    try:
        typer.run(chaos)
    except UserError as error:
        print(f"athanor-chaos: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()

"""How many FLOPs a second this machine trains a model with, and how that is known.

The first that applies: what earlier training in the store measured (same family, same peak of the device, about the
same size), on as many devices or else on another number; on a GPU whose data sheet is known, what a micro-batch
launches there, counted op by op (models/roofline.py); on a CPU, one small batch timed here. A rate that was not
measured on as many devices is assumed to be linear in them, and says so.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from statistics import median

from athanor.core.numbers import share
from athanor.core.rows import read_rows
from athanor.core.run_files import METRICS
from athanor.core.runtime import Runtime
from athanor.core.store import Store
from athanor.flows.plan.machine import Machine
from athanor.models.counts import Flops
from athanor.models.device import gpu_of
from athanor.models.model_recipe import ModelRecipe
from athanor.tasks.stage import stages_of
from athanor.tasks.trainer.step.micro_batch import roofline_of

ALIKE_SIZE = 3.0  # the FLOPs per token of two models, one through the other, at most
ALIKE_PEAK = 0.01
WARMING_STEPS = 3  # the first steps are slower
TIMED_TOKENS = 2048
TIMED_S = 1.5  # at least, as a machine that does other things too is slow by fits
TIMED_FLOPS = 2e11  # no more than this is computed to find out; two laptop cores take some seconds


@dataclass(frozen=True)
class Rate:
    """Training speed of all devices together in FLOP/s, and where it comes from, for people."""

    flops_per_s: float
    source: str


def training_rate(
    store: Store,
    stage: str,
    recipe: ModelRecipe,
    flops: Flops,
    seq_len_tokens: int,
    machine: Machine,
    runtime: Runtime,
    rows: Callable[[], int],
    timing: bool = True,
) -> Rate | None:
    """The rate of training `recipe`; None where nothing is known. `flops` are those of one token, `rows` tells how many
    a micro-batch has. Without `timing` no batch is timed."""
    per_token, devices = flops.forward + flops.backward, machine.devices
    logs = list(_newest_logs(store, stage, recipe.family))
    measured = [found for path in logs if (found := _measured(path, per_token, machine.peak_flops_per_s)) is not None]
    if (best := next((m for m in measured if m.devices == devices), next(iter(measured), None))) is not None:
        return _linear(Rate(best.flops_per_s, f"measured in {best.where}"), best.devices, devices)
    if (gpu := gpu_of(machine.name)) is not None:
        utilisation = roofline_of(recipe, runtime, gpu, rows(), seq_len_tokens).utilisation
        source = f"counted, optimistic: {share(utilisation)} of the peak of {machine.name}"
        return _linear(Rate(utilisation * gpu.peak_flops_per_s, source), 1, devices)
    if timing and machine.device_type == "cpu" and 2 * per_token * max(TIMED_TOKENS, seq_len_tokens) <= TIMED_FLOPS:
        return _linear(_timed(recipe.model_dump_json(), per_token, seq_len_tokens, runtime.threads), 1, devices)
    return None


def _linear(rate: Rate, known_devices: int, devices: int) -> Rate:
    """A rate known on some devices, for as many as there are."""
    if devices == known_devices:
        return rate
    source = f"assumed: linear over {devices} devices; {rate.source.removeprefix('assumed: ')}"
    return Rate(rate.flops_per_s * devices / known_devices, source)


def _newest_logs(store: Store, stage: str, family: str) -> Iterator[Path]:
    """Logs of finished and interrupted training of a family: this stage's first, the newest first."""
    trained = [record.name for record in stages_of() if record.trains]
    for name in sorted(trained, key=lambda other: other != stage):
        logs = [
            p for p in (store.root / name).glob(f"*/{METRICS}") if p.parent.name.lstrip(".").startswith(f"{family}-")
        ]
        yield from sorted(logs, key=lambda path: path.stat().st_mtime, reverse=True)


@dataclass(frozen=True)
class _Measured:
    flops_per_s: float
    devices: int
    where: str


def _measured(path: Path, flops_per_token: float, peak_flops_per_s: float) -> _Measured | None:
    steps = [row for row in read_rows(path) if row["kind"] == "step"][WARMING_STEPS:]
    if not steps:
        return None
    newest = steps[-1]
    theirs = newest["flops_per_s"] / newest["tokens_per_s"]
    their_peak = newest["flops_per_s"] / newest["utilisation"] if newest["utilisation"] else math.inf
    if math.isinf(their_peak) != math.isinf(peak_flops_per_s):
        return None
    devices = 1 if math.isinf(their_peak) else max(1, round(their_peak / peak_flops_per_s))
    alike = math.isinf(their_peak) or abs(their_peak / (devices * peak_flops_per_s) - 1) < ALIKE_PEAK
    if not alike or max(theirs / flops_per_token, flops_per_token / theirs) > ALIKE_SIZE:
        return None
    folder = path.parent.name.strip(".").removesuffix(".partial")
    return _Measured(median(row["flops_per_s"] for row in steps), devices, f"{path.parent.parent.name}/{folder}")


@cache
def _timed(recipe_json: str, flops_per_token: float, seq_len_tokens: int, asked_threads: int | None) -> Rate:
    """Time forward and backward of a batch of about TIMED_TOKENS, again and again for TIMED_S after one that warms up:
    the median, of two at least; once per process."""
    import torch

    from athanor.models.build import build_model

    recipe, threads = ModelRecipe.model_validate_json(recipe_json), torch.get_num_threads()
    if asked_threads is not None:
        torch.set_num_threads(asked_threads)
    try:
        model = build_model(recipe)
        model.init_weights(0)
        model.train()
        model.begin_step(0)
        rows = max(1, TIMED_TOKENS // seq_len_tokens)
        generator = torch.Generator().manual_seed(0)
        ids_BT = torch.randint(0, recipe.vocab_size or 1, (rows, seq_len_tokens), generator=generator)
        took_s: list[float] = []
        while len(took_s) < 3 or sum(took_s[1:]) < TIMED_S:
            started = time.perf_counter()
            loss = model.loss(ids_BT, ids_BT, torch.zeros_like(ids_BT), torch.arange(rows))
            torch.stack([loss.total, *loss.aux.values()]).sum().backward()
            took_s.append(time.perf_counter() - started)
    finally:
        torch.set_num_threads(threads)
    return Rate(rows * seq_len_tokens * flops_per_token / median(took_s[1:]), f"timed here on one batch of {rows} rows")

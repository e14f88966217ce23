"""Training on GPUs: resumed to the same bits, the same on any number of them, compiled or not."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file
from trainer_stop import Stop

from athanor.core.rows import read_rows
from athanor.tasks.trainer.process.exit_codes import Preempted
from athanor.tasks.trainer.process.launch import run_trainer
from athanor.tasks.trainer.records.metrics import reproducible_rows
from athanor.tasks.trainer.run import train
from athanor.tasks.trainer.start import read_spec

pytestmark = pytest.mark.gpu

FAMILIES = ["vanilla", "polychromatic", "huginn"]
ON_A_GPU = {"device": "cuda", "threads": None}
LOSS = 1e-5  # relative, fp32


def losses(folder) -> list[float]:
    return [row["loss"] for row in read_rows(folder / "metrics.jsonl") if row["kind"] == "step"]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_run_that_was_stopped_ends_in_the_same_bits(family, make_run):
    whole, cut = (make_run(name, family, runtime=ON_A_GPU) for name in ("whole", "cut"))
    train(whole, Stop())
    with pytest.raises(Preempted):
        train(cut, Stop(looks=5))
    train(cut, Stop())
    assert reproducible_rows(cut) == reproducible_rows(whole)
    weights, expected = (load_file(folder / "model.safetensors") for folder in (cut, whole))
    assert all(torch.equal(weights[name], expected[name]) for name in expected)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_gpu_learns_what_a_cpu_learns(family, make_run):
    there = make_run("gpu", family, runtime={**ON_A_GPU, "precision": "fp32"})
    here = make_run("cpu", family, runtime={"precision": "fp32"})
    for folder in (there, here):
        train(folder, Stop())
    assert losses(there) == pytest.approx(losses(here), rel=LOSS)


def test_compiling_changes_no_loss_beyond_rounding(make_run):
    eager, compiled = (make_run(str(on), runtime={**ON_A_GPU, "precision": "fp32", "compile": on}) for on in (0, 1))
    for folder in (eager, compiled):
        train(folder, Stop())
    assert losses(compiled) == pytest.approx(losses(eager), rel=LOSS)


@pytest.mark.parametrize("engine", ["ddp", "fsdp", "deepspeed"])
def test_every_engine_on_all_gpus_learns_what_one_learns(engine, make_run):
    ranks = 1 << (min(8, torch.cuda.device_count()).bit_length() - 1)  # the batch is 8 rows
    alone = make_run("alone", runtime={**ON_A_GPU, "precision": "fp32"})
    train(alone, Stop())
    shared = make_run("shared", runtime={**ON_A_GPU, "precision": "fp32", "engine": engine, "ranks": ranks})
    run_trainer(shared, lambda row: None, read_spec(shared).runtime)
    assert losses(shared) == pytest.approx(losses(alone), rel=LOSS)

"""Rates of a run, from the times of its steps."""

from __future__ import annotations

import math

import pytest

from athanor.models.counts import flops_per_token
from athanor.models.model_recipe import ModelRecipe
from athanor.tasks.trainer.records.throughput import RECENT_STEPS, Throughput
from athanor.tasks.trainer.train_recipe import TrainRecipe

MODEL = ModelRecipe(
    family="vanilla",
    vocab_size=64,
    d_model=16,
    n_layers=1,
    n_heads=1,
    n_kv_heads=1,
    head_dim=16,
    d_ff=32,
    max_seq_len=32,
)
TRAIN = TrainRecipe.model_validate(
    {
        "steps": 100,
        "seq_len_tokens": 32,
        "length_phases": [{"seq_len_tokens": 16, "until_fraction": 0.5}],
        "batch_tokens": 64,
        "peak_lr": 0.1,
    }
)


@pytest.mark.parametrize("length", [16, 32])
def test_rates_are_those_of_the_step_and_its_row_length(length):
    flops = flops_per_token(MODEL, length)
    found = Throughput(MODEL, TRAIN, 1e9).after(0.5, 0.8, 10, length)
    assert found["tokens_per_s"] == 128.0
    assert found["flops_per_s"] == pytest.approx(128.0 * (flops.forward + flops.backward))
    assert found["utilisation"] == pytest.approx(found["flops_per_s"] / 1e9)
    assert (found["step_s"], found["wall_s"], found["eta_s"]) == (0.5, 0.8, 8.0)


def test_the_time_left_follows_the_recent_steps_alone():
    throughput = Throughput(MODEL, TRAIN, math.inf)
    throughput.after(1.0, 1000.0, 99, 32)
    for _ in range(RECENT_STEPS):
        found = throughput.after(1.0, 2.0, 5, 32)
    assert found["eta_s"] == 10.0
    assert found["utilisation"] == 0.0, "of a peak that is not known"

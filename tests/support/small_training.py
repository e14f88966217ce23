"""A small model of any family in training on real text, a byte a token, for tests of optimizers."""

from __future__ import annotations

import argparse
import inspect
from contextlib import nullcontext

import numpy as np
import torch

from athanor.data.loader import Batch
from athanor.models.build import build_model
from athanor.models.model_recipe import ModelRecipe
from athanor.tasks.trainer.engines.engine import Engine
from athanor.tasks.trainer.optimizers.build import build_optimizer
from athanor.tasks.trainer.optimizers.kind import OPTIMIZERS
from athanor.tasks.trainer.process.world import World
from athanor.tasks.trainer.step.step import Optimization
from athanor.tasks.trainer.train_recipe import TrainRecipe

CPU = torch.device("cpu")
PEAK_LR = {kind.name: 1e-2 * kind.relative_lr for kind in OPTIMIZERS.records()}
ROWS, TOKENS = 8, 32
SHAPE = dict(vocab_size=256, d_model=64, n_layers=2, n_heads=4, n_kv_heads=2, head_dim=16, d_ff=128, max_seq_len=TOKENS)
EXPERTS = {"family": "hydra", "hydra": dict(recursions=2, experts=4, moe_layers=1, curriculum=False)}


def train_recipe(optimizer: str, **fields) -> TrainRecipe:
    """100 steps with the optimizer's own defaults, `fields` apart."""
    shape = {"steps": 100, "seq_len_tokens": TOKENS, "batch_tokens": ROWS * TOKENS, "peak_lr": PEAK_LR[optimizer]}
    return TrainRecipe.model_validate({**shape, "optimizer": optimizer, **fields})


def small_model(device="cpu", **changes):
    """PolychromaticLM unless `changes` say otherwise, without weights."""
    with torch.device(device):
        return build_model(ModelRecipe.model_validate({**SHAPE, "family": "polychromatic", **changes}))


def batch(step: int) -> Batch:
    """Rows of real text, a byte a token, other ones every step."""
    text = np.frombuffer(inspect.getsource(argparse).encode(), dtype=np.uint8).astype(np.int64)
    starts = np.random.default_rng(step).integers(len(text) - TOKENS - 1, size=(ROWS, 1))
    rows = text[starts + np.arange(TOKENS + 1)]
    return Batch(
        rows[:, :-1],
        rows[:, 1:],
        np.zeros((ROWS, TOKENS), np.int64),
        np.arange(ROWS) + ROWS * step,
        np.zeros(ROWS, np.int64),
    )


def training(optimizer: str, seed: int = 0, **changes) -> Optimization:
    """The model with weights, before its first step."""
    model = small_model(**changes)
    model.init_weights(seed)
    return optimization(model, optimizer)


def optimization(model, optimizer: str) -> Optimization:
    """The model in one process, half the rows at a time."""
    engine = Engine(model, build_optimizer(model, train_recipe(optimizer), CPU), World())
    return Optimization(engine, 1.0, CPU, nullcontext(), ROWS // 2 * TOKENS, OPTIMIZERS[optimizer].after_update, print)


def advance(subject: Optimization, optimizer: str, steps: range) -> list[float]:
    """Losses of the steps, at a rate that falls."""
    losses = []
    for step in steps:
        losses.append(subject.measure(batch(step), step_key=step).loss)
        subject.update(PEAK_LR[optimizer] * (1 - step / 100))
    return losses

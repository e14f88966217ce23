"""Muon: which parameters are its own."""

from __future__ import annotations

import torch
from small_training import CPU, EXPERTS, small_model, train_recipe

from athanor.tasks.trainer.optimizers.build import build_optimizer
from athanor.tasks.trainer.optimizers.muon import is_orthogonalised


def test_muon_trains_the_matrices_of_the_blocks_and_nothing_else():
    model = small_model(**EXPERTS)
    subject = build_optimizer(model, train_recipe("muon"), CPU)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    subject.step()
    by_muon = {name for name, p in model.named_parameters() if "momentum_buffer" in subject.state[p]}
    kinds = {".".join(name.split(".")[-3:]) for name in by_muon if name.startswith("blocks.")}
    assert kinds == {f"attention.{n}.weight" for n in ("query", "key", "value", "shifted_value", "out")} | {
        f"ffn.{n}.weight" for n in ("gate", "up", "down")
    }
    assert all(name.startswith("blocks.") for name in by_muon)
    untied = small_model(
        family="huginn",
        n_heads=4,
        n_kv_heads=4,
        n_layers=4,
        huginn=dict(prelude_layers=1, coda_layers=1, mean_recurrence=3, backprop_depth=2, tied=False),
    )
    assert not any(is_orthogonalised(name, p) for name, p in untied.named_parameters() if "head" in name)

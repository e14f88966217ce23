"""Every family learns: 200 steps on real text beat what letter frequencies alone can say."""

from __future__ import annotations

import argparse
import inspect

import numpy as np
import pytest
import torch

from athanor.models.build import build_model
from athanor.models.model_recipe import ModelRecipe

STEPS, ROWS, LENGTH = 200, 8, 48
SHAPE = dict(vocab_size=256, d_model=48, n_layers=4, n_heads=4, n_kv_heads=2, head_dim=12, d_ff=96, max_seq_len=64)
FAMILIES = {
    "vanilla": {},
    "vanilla gpt2": {
        "n_kv_heads": 4,
        "vanilla": dict(positions="learned", norm="layernorm", ffn="gelu", bias=True, qk_norm=False),
    },
    "vanilla gemma2": {
        "vanilla": dict(
            ffn="geglu",
            branch_norm=True,
            qk_norm=False,
            scale_embedding=True,
            window=16,
            attention_cap=50.0,
            logit_cap=30.0,
        )
    },
    "polychromatic": {},
    "swa_mla": {
        "n_kv_heads": 4,
        "swa_mla": dict(window=16, sink=2, kv_rank=16, qk_nope_dim=8, qk_rope_dim=8, v_dim=12),
    },
    "huginn": {
        "n_kv_heads": 4,
        "rope_base": 50_000.0,
        "huginn": dict(prelude_layers=1, coda_layers=1, mean_recurrence=3, backprop_depth=2),
    },
    "hydra": {"n_layers": 2, "hydra": dict(recursions=2, experts=4, moe_layers=0, mod_ramp_steps=20)},
}


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_200_steps_on_real_text_beat_the_unigram_entropy(family):
    text = torch.frombuffer(bytearray(inspect.getsource(argparse), "utf-8"), dtype=torch.uint8).long()
    share = np.bincount(text.numpy(), minlength=256) / len(text)
    unigram_nats = -(share[share > 0] * np.log(share[share > 0])).sum()
    model = build_model(ModelRecipe.model_validate({**SHAPE, "family": family.split()[0], **FAMILIES[family]}))
    model.init_weights(0)
    optimizer = torch.optim.AdamW(model.parameter_groups(0.1), lr=3e-3, betas=(0.9, 0.95))
    generator = torch.Generator().manual_seed(0)
    losses = []
    for step in range(STEPS):
        starts = torch.randint(len(text) - LENGTH - 1, (ROWS, 1), generator=generator)
        rows = text[starts + torch.arange(LENGTH + 1)]
        model.begin_step(step)
        loss = model.loss(rows[:, :-1], rows[:, 1:], None, torch.arange(ROWS) + ROWS * step)
        mean = loss.total / loss.tokens
        (mean + sum(loss.aux.values())).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(mean.item())
        model.after_step(losses[-1])
        model.apply_schedule(model.schedule((step + 1) / STEPS))
    assert losses[0] > unigram_nats
    assert np.mean(losses[-10:]) < unigram_nats

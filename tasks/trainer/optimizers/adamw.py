"""AdamW (Loshchilov and Hutter 2019, arXiv 1711.05101, alg. 2), torch's own, fused."""

from __future__ import annotations

import torch

from athanor.tasks.trainer.optimizers.kind import OptimizerKind, moments

ADAMW = {"beta1": 0.9, "beta2": 0.95, "eps": 1e-8, "weight_decay": 0.1}

DECLARED = OptimizerKind(
    name="adamw",
    defaults=ADAMW,
    build=lambda groups, model, **arguments: torch.optim.AdamW(groups, **arguments, fused=True),
    state_bytes=moments(2),
    sharded_by=("fsdp", "deepspeed"),
)

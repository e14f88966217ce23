"""AdamW (Loshchilov and Hutter 2019, arXiv 1711.05101, alg. 2), torch's own, fused.

The default, so it declares itself without importing torch.
"""

from __future__ import annotations

from typing import Any

from athanor.tasks.trainer.optimizers.kind import OptimizerKind, moments

ADAMW = {"beta1": 0.9, "beta2": 0.95, "eps": 1e-8, "weight_decay": 0.1}


def _build(groups: list[dict[str, Any]], model: Any, **arguments: Any) -> Any:
    import torch

    return torch.optim.AdamW(groups, **arguments, fused=True)


DECLARED = OptimizerKind(
    name="adamw",
    defaults=ADAMW,
    build=_build,
    state_bytes=moments(2),
    sharded_by=("fsdp", "deepspeed"),
)

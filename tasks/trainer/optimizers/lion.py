"""Lion (Chen et al. 2023, arXiv 2302.06675, alg. 2) and Cautious Lion (Liang et al. 2024, arXiv 2411.16085, alg. 2).

    u = sign(b1 m + (1 - b1) g),   m <- b2 m + (1 - b2) g,   p <- p - lr wd p - lr u

Cautious: u counts only where it agrees with the gradient, and what remains is scaled up for what was left out,

    u <- u [u g > 0] n / (1 + #[u g > 0])        n elements in the tensor

Parameters are fp32. The moment is stored in `moment_dtype`; a step computes with it in fp32 and rounds it once, to
nearest. In bf16 that is at most 0.4 % of a moment that moves by 1 - b2 = 1 % a step, and only its sign is used.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from athanor.tasks.trainer.optimizers.adamw_bf16 import BF16_BETA_LIMIT
from athanor.tasks.trainer.optimizers.kind import BF16_BYTES, OptimizerKind, moments
from athanor.tasks.trainer.optimizers.per_tensor import PerTensor

LION = {"beta1": 0.9, "beta2": 0.99, "weight_decay": 1.0}  # arXiv 2302.06675 sec. 5: lr / 10 and decay x 10 of AdamW's
LION_RELATIVE_LR = 1 / 10


class Lion(PerTensor):
    """State: `exp_avg` in `moment_dtype`."""

    def __init__(
        self,
        groups: list[dict[str, Any]],
        *,
        lr: float,
        betas: tuple[float, float],
        cautious: bool = False,
        moment_dtype: torch.dtype = torch.float32,
    ):
        super().__init__(groups, {"lr": lr, "betas": betas})
        self._cautious = cautious
        self._moment_dtype = moment_dtype

    def new_state(self, parameter: Tensor) -> dict[str, Tensor]:
        return {"exp_avg": torch.zeros_like(parameter, dtype=self._moment_dtype)}

    def update(self, parameter: Tensor, grad: Tensor, state: dict[str, Tensor], group: dict[str, Any]) -> None:
        beta1, beta2 = group["betas"]
        moment = state["exp_avg"].float()
        direction = moment.lerp(grad, 1 - beta1).sign_()
        if self._cautious:
            agrees = direction * grad > 0
            direction.mul_(agrees).mul_(agrees.numel() / (1 + agrees.sum()))
        parameter.mul_(1 - group["lr"] * group["weight_decay"]).add_(direction, alpha=-group["lr"])
        state["exp_avg"].copy_(moment.lerp(grad, 1 - beta2))


DECLARED = (
    OptimizerKind(
        "lion",
        defaults=LION,
        build=lambda groups, model, **arguments: Lion(groups, **arguments),
        state_bytes=moments(1),
        sharded_by=("fsdp",),
        relative_lr=LION_RELATIVE_LR,
    ),
    OptimizerKind(
        "lion-bf16-moments",
        defaults=LION,
        build=lambda groups, model, **arguments: Lion(groups, **arguments, moment_dtype=torch.bfloat16),
        state_bytes=moments(1, BF16_BYTES),
        sharded_by=("fsdp",),
        beta_limit=BF16_BETA_LIMIT,
        relative_lr=LION_RELATIVE_LR,
    ),
    OptimizerKind(
        "cautious-lion",
        defaults=LION,
        build=lambda groups, model, **arguments: Lion(groups, **arguments, cautious=True),
        state_bytes=moments(1),
        sharded_by=("fsdp",),
        relative_lr=LION_RELATIVE_LR,
    ),
)

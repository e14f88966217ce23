"""ELLISAdam, the optimizer of Huginn (Geiping et al. 2025, arXiv 2502.05171), as its launch configurations set it:
running_init, atan_adam, update_clipping, decouple_wd. For each tensor, moments starting at m = g, v = g^2:

    m <- b1 m + (1 - b1) g,   v <- b2 v + (1 - b2) g^2,   t <- t + 1
    eta = lr / max(1, sqrt(mean(g^2 / max(v, eps^2)))) / (1 - b1^t)
    p <- p - (lr / lr_init) wd p,   p <- p - eta atan2(m, sqrt(v / (1 - b2^t)))

Bias is corrected although the moments start at the first gradient's, so the first update is about 2.2 lr. `lr_init` is
the learning rate the schedule peaks at: weight decay is the share taken off at that rate, not multiplied by it. The
arctangent needs no epsilon; eps only bounds the clipping ratio. The published trainer throws its first gradient away
while it compiles; here it is used.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from athanor.tasks.trainer.optimizers.kind import OptimizerKind, moments
from athanor.tasks.trainer.optimizers.per_tensor import PerTensor, step_counter


class EllisAdam(PerTensor):
    """State: `exp_avg`, `exp_avg_sq` in fp32, `step`. `lr` is the peak of the schedule."""

    def __init__(self, groups: list[dict[str, Any]], *, lr: float, betas: tuple[float, float], eps: float):
        super().__init__(groups, {"lr": lr, "betas": betas, "eps": eps})
        self._peak_lr = lr

    def new_state(self, parameter: Tensor) -> dict[str, Tensor]:
        return {
            "step": step_counter(),
            "exp_avg": torch.zeros_like(parameter),
            "exp_avg_sq": torch.zeros_like(parameter),
        }

    def update(self, parameter: Tensor, grad: Tensor, state: dict[str, Tensor], group: dict[str, Any]) -> None:
        beta1, beta2 = group["betas"]
        mean, square = state["exp_avg"], state["exp_avg_sq"]
        if not state["step"]:
            mean.copy_(grad)
            square.copy_(grad.square())
        step = state["step"].add_(1).item()
        mean.lerp_(grad, 1 - beta1)
        square.lerp_(grad.square(), 1 - beta2)
        surprise = (grad.square() / square.clamp(min=group["eps"] ** 2)).mean().sqrt()
        eta = group["lr"] / surprise.clamp(min=1) / (1 - beta1**step)
        lr_init = self._peak_lr * group.get("lr_scale", 1.0)
        if lr_init:  # 0 where the parameter is frozen
            parameter.mul_(1 - group["lr"] / lr_init * group["weight_decay"])
        parameter.sub_(eta * torch.atan2(mean, (square / (1 - beta2**step)).sqrt_()))


DECLARED = OptimizerKind(
    name="ellis-adam",
    defaults={"beta1": 0.9, "beta2": 0.95, "eps": 1e-6, "weight_decay": 4e-5},
    build=lambda groups, model, **arguments: EllisAdam(groups, **arguments),
    state_bytes=moments(2),
    sharded_by=("fsdp",),
)

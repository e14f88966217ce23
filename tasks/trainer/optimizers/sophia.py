"""Sophia-G (Liu et al. 2023, arXiv 2305.14342, alg. 2 and 3): momentum over a running estimate of the curvature.

    m <- b1 m + (1 - b1) g,   p <- p - lr wd p - lr clip(m / max(gamma h, eps), 1)

and after step 1 and every `CURVATURE_EVERY_STEPS`-th from there, by the Gauss-Newton-Bartlett estimator,

    h <- b2 h + (1 - b2) N s^2

where s is the gradient of the mean cross-entropy over the batch's N targets, each target being drawn from the model's
own prediction (`LanguageModel.sampled_loss`). That takes a backward pass of its own at the new weights, which
`after_update` asks for. gamma decides which updates are clipped; the paper tunes it so that 10 to 50 % are not.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from athanor.tasks.trainer.optimizers.kind import OptimizerKind, moments
from athanor.tasks.trainer.optimizers.per_tensor import PerTensor, step_counter

CURVATURE_EVERY_STEPS = 10


class SophiaG(PerTensor):
    """State: `exp_avg`, `curvature` in fp32, `step`."""

    def __init__(
        self, groups: list[dict[str, Any]], *, lr: float, betas: tuple[float, float], eps: float, gamma: float
    ):
        super().__init__(groups, {"lr": lr, "betas": betas, "eps": eps, "gamma": gamma})

    def after_update(self, sampled_gradient: Callable[[], int]) -> None:
        """Estimate the curvature if it is due between the last step and the coming one."""
        steps = max((int(state["step"]) for state in self.state.values()), default=0)
        if steps % CURVATURE_EVERY_STEPS == 1:
            self.update_curvature(sampled_gradient())

    @torch.no_grad()
    def update_curvature(self, targets: int) -> None:
        """Take in the gradients of a mean loss over `targets` sampled targets; none counts as zero."""
        for group in self.param_groups:
            for parameter in group["params"]:
                curvature = self.state_of(parameter)["curvature"].mul_(group["betas"][1])
                if (grad := parameter.grad) is not None:
                    curvature.addcmul_(grad, grad, value=(1 - group["betas"][1]) * targets)

    def new_state(self, parameter: Tensor) -> dict[str, Tensor]:
        return {
            "step": step_counter(),
            "exp_avg": torch.zeros_like(parameter),
            "curvature": torch.zeros_like(parameter),
        }

    def update(self, parameter: Tensor, grad: Tensor, state: dict[str, Tensor], group: dict[str, Any]) -> None:
        state["step"].add_(1)
        mean = state["exp_avg"].lerp_(grad, 1 - group["betas"][0])
        scale = (group["gamma"] * state["curvature"]).clamp_(min=group["eps"])
        parameter.mul_(1 - group["lr"] * group["weight_decay"])
        parameter.sub_(mean.div(scale).clamp_(-1, 1), alpha=group["lr"])


DECLARED = OptimizerKind(
    name="sophia-g",
    defaults={"beta1": 0.965, "beta2": 0.99, "eps": 1e-12, "weight_decay": 0.2, "sophia_gamma": 0.05},
    build=lambda groups, model, *, sophia_gamma, **arguments: SophiaG(groups, gamma=sophia_gamma, **arguments),
    state_bytes=moments(2),
    sharded_by=("fsdp",),
    relative_lr=1 / 10,
    after_update=SophiaG.after_update,
)

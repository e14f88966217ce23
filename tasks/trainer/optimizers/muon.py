"""Muon for the matrices of the blocks, AdamW for everything else, as one optimizer.

Muon (Jordan et al. 2024, kellerjordan.github.io/posts/muon) replaces a matrix's Nesterov momentum by the orthogonal
matrix nearest to it, which makes sense for maps between hidden vectors and nothing else. Its update is scaled by
0.2 sqrt(max(rows, columns)) (Liu et al. 2025, arXiv 2502.16982, sec. 2.2) and so has the size of AdamW's: one learning
rate and one decay serve both.
"""

from __future__ import annotations

from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn

from athanor.tasks.trainer.optimizers.adamw import ADAMW
from athanor.tasks.trainer.optimizers.kind import OptimizerKind, moments

MOMENTUM = 0.95


def is_orthogonalised(name: str, parameter: Tensor) -> bool:
    """Whether Muon trains it: a matrix that is no embedding, head or router. Convolutions and stacked experts have
    three dimensions, which `torch.optim.Muon` does not take."""
    return parameter.ndim == 2 and not {"embedding", "head", "router"} & set(name.split("."))


class MuonWithAdamW(torch.optim.Optimizer):
    """`torch.optim.Muon` and fused `torch.optim.AdamW` over one list of groups and one state."""

    def __init__(
        self,
        groups: list[dict[str, Any]],
        model: nn.Module,
        *,
        lr: float,
        betas: tuple[float, float],
        eps: float,
    ):
        matrices: set[Tensor] = {p for name, p in model.named_parameters() if is_orthogonalised(name, p)}
        others: set[Tensor] = {p for p in model.parameters() if p not in matrices}
        self._parts = (
            torch.optim.Muon(_among(groups, matrices), lr, momentum=MOMENTUM, adjust_lr_fn="match_rms_adamw"),
            torch.optim.AdamW(_among(groups, others), lr, betas, eps, fused=True),
        )
        super().__init__([group for part in self._parts for group in part.param_groups], {})

    def step(self, closure: None = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """A step of both."""
        groups = iter(self.param_groups)
        for part in self._parts:
            part.param_groups = list(islice(groups, len(part.param_groups)))
            part.state = self.state
            part.step()


def _among(groups: list[dict[str, Any]], chosen: set[Tensor]) -> list[dict[str, Any]]:
    """The groups with only their chosen parameters; a group left with none stays, empty."""
    return [{**group, "params": [p for p in group["params"] if p in chosen]} for group in groups]


DECLARED = OptimizerKind(
    name="muon",
    defaults=ADAMW,  # the betas and eps are those of its AdamW part
    build=lambda groups, model, **arguments: MuonWithAdamW(groups, model, **arguments),
    state_bytes=lambda name, parameter: moments(1 if is_orthogonalised(name, parameter) else 2)(name, parameter),
    sharded_by=("fsdp",),
)

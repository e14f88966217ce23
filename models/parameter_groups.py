"""Which parameters an optimizer decays, and the groups it takes them in."""

from __future__ import annotations

from typing import Any

from torch import nn


class ParameterGroups(nn.Module):
    """What a model tells an optimizer about its parameters."""

    def decays(self, name: str, parameter: nn.Parameter) -> bool:
        """Whether weight decay applies: matrices and the embedding, not gains and biases."""
        return parameter.ndim >= 2

    def parameter_groups(self, weight_decay: float) -> list[dict[str, Any]]:
        """Optimizer groups: decayed parameters, then the others at 0; each parameter once."""
        decayed, kept = [], []
        for name, parameter in self.named_parameters():
            (decayed if self.decays(name, parameter) else kept).append(parameter)
        return [{"params": decayed, "weight_decay": weight_decay}, {"params": kept, "weight_decay": 0.0}]

"""The loop shared by the optimizers written here: one tensor after another, state made when first needed."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor


class PerTensor(torch.optim.Optimizer, ABC):
    """A subclass says what a parameter's state is when new, and how a gradient changes parameter and state in place."""

    @abstractmethod
    def new_state(self, parameter: Tensor) -> dict[str, Tensor]:
        """State before the first step."""

    @abstractmethod
    def update(self, parameter: Tensor, grad: Tensor, state: dict[str, Tensor], group: dict[str, Any]) -> None:
        """One step. fp32 `parameter`; `group` holds lr and the hyperparameters."""

    def state_of(self, parameter: Tensor) -> dict[str, Tensor]:
        """The parameter's state, made new where there is none."""
        state = self.state[parameter]
        if not state:
            state.update(self.new_state(parameter))
        return state

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Update every parameter that has a gradient."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self.update(parameter, parameter.grad, self.state_of(parameter), group)


def step_counter() -> Tensor:
    """fp32 scalar 0 in host memory, as torch's own optimizers keep it."""
    return torch.zeros((), device="cpu")

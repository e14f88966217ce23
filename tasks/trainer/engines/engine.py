"""How parameters, gradients and optimizer state are laid out: here whole, in one process.

An engine is what a training step does with its model: the loss of some rows, the backward pass, clipping, the update,
and the tensors of a checkpoint. The other engines refine this one for several ranks. Invariant: for the same global
batch every engine makes the same update, up to the order of sums.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

from models.skeleton import LanguageModel, Loss
from tasks.trainer.checkpoint import training_tensors
from tasks.trainer.world import World


class Engine:
    """One process. `model` is the network itself, whatever an engine wraps around it."""

    def __init__(self, model: LanguageModel, optimizer: torch.optim.Optimizer, world: World):
        self.model, self.optimizer, self.world = model, optimizer, world
        self._parameters = [p for group in optimizer.param_groups for p in group["params"]]

    def loss(self, rows: dict[str, Tensor]) -> Loss:
        """`LanguageModel.loss` of this rank's rows."""
        return self.model.loss(**rows)

    def sampled_loss(self, rows: dict[str, Tensor]) -> Loss:
        """`LanguageModel.sampled_loss` of this rank's rows."""
        return self.model.sampled_loss(**rows)

    def slice(self, last: bool) -> AbstractContextManager:
        """To hold around the forward and backward pass of a slice of the batch; gradients are exchanged on the last."""
        return nullcontext()

    def backward(self, objective: Tensor) -> None:
        """Add the gradients of this rank's share of the objective, whose sum over the ranks is the step's."""
        objective.backward()

    def clip(self, max_norm: float) -> Tensor:
        """Scale the gradient to a global norm of at most `max_norm`; returns the norm before, a scalar."""
        for parameter in self._parameters:
            if parameter.grad is None:  # unused in this step; its optimizer state must exist all the same
                parameter.grad = torch.zeros_like(parameter)
        return torch.nn.utils.clip_grad_norm_(self._parameters, max_norm, foreach=True)

    def update(self, lr: float) -> None:
        """One optimizer step; forgets the gradient."""
        for group in self.optimizer.param_groups:
            group["lr"] = lr * group.get("lr_scale", 1.0)
        self.optimizer.step()
        self.discard()

    def discard(self) -> None:
        """Forget the gradient."""
        self.optimizer.zero_grad()

    def tensors(self) -> dict[str, Tensor]:
        """Model and optimizer by name, as a checkpoint holds them; writing to them changes the run."""
        return training_tensors(self.model, self.optimizer)

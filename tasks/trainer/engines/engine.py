"""How parameters, gradients and optimizer state are laid out: here whole, in one process.

An engine is what a training step does with its model: the loss of some rows, the backward pass, clipping, the update,
and the tensors of a checkpoint. The other engines refine this one for several ranks. Invariants: for the same global
batch every engine makes the same update, up to the order of sums; the tensors of a checkpoint have the same names and
global shapes in all of them, so that a run may go on under another engine. Except for `loss` and `backward` of ranks
whose rows differ in number, all ranks call the same methods in the same order.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from athanor.models.skeleton import LanguageModel, Loss
from athanor.tasks.trainer.process.world import World
from athanor.tasks.trainer.records.checkpoint import training_tensors

T = TypeVar("T")


class Computation(nn.Module):
    """A model whose forward pass is whatever is asked of it: what wrappers of modules wrap, which serve only that."""

    def __init__(self, model: LanguageModel):
        super().__init__()
        self.model = model

    def forward(self, function: Callable[..., T], *arguments: Any) -> T:
        return function(self.model, *arguments)


def loss_of(model: LanguageModel, rows: dict[str, Tensor]) -> Loss:
    """`LanguageModel.loss`, as a function for `Computation`."""
    return model.loss(**rows)


def sampled_loss_of(model: LanguageModel, rows: dict[str, Tensor]) -> Loss:
    """`LanguageModel.sampled_loss`, as a function for `Computation`."""
    return model.sampled_loss(**rows)


class Engine:
    """One process. `model` is the network itself, whatever an engine wraps around it."""

    def __init__(self, model: LanguageModel, optimizer: torch.optim.Optimizer, world: World):
        self.model, self.optimizer, self.world = model, optimizer, world
        self._parameters = [p for group in optimizer.param_groups for p in group["params"]]

    def loss(self, rows: dict[str, Tensor]) -> Loss:
        """`LanguageModel.loss` of this rank's rows."""
        return self._call(loss_of, rows)

    def sampled_loss(self, rows: dict[str, Tensor]) -> Loss:
        """`LanguageModel.sampled_loss` of this rank's rows."""
        return self._call(sampled_loss_of, rows)

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
        self._set_lr(lr)
        self.optimizer.step()
        self.discard()

    def discard(self) -> None:
        """Forget the gradient."""
        self.optimizer.zero_grad()

    @torch.no_grad()
    def compute(self, function: Callable[[LanguageModel], T]) -> T:
        """`function(model)`, without gradient; it may call any method of the model, on all ranks alike."""
        return self._call(function)

    def opened(self, parameter: nn.Parameter) -> AbstractContextManager:
        """Within: the parameter's data can be read and written, with the same values on all ranks."""
        return nullcontext()

    def tensors(self) -> dict[str, Tensor]:
        """Model and optimizer by name, as a checkpoint holds them; after writing to them call `restore`."""
        return training_tensors(self.model, self.optimizer)

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Go on from what was written to the result of `tensors`."""

    def weights(self) -> dict[str, Tensor]:
        """The model's state dict in whole tensors, which may be the model's own; empty on all ranks but the first."""
        return self.model.state_dict()

    def _call(self, function: Callable[..., T], *arguments: Any) -> T:
        """`function(model, *arguments)`, through whatever is wrapped around the model."""
        return function(self.model, *arguments)

    def _set_lr(self, lr: float) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = lr * group.get("lr_scale", 1.0)

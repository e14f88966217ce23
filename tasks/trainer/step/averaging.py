"""Averaged weights: the equal-weight mean of the parameters after every step of the last part of training.

What is delivered, and evaluated at the end, is the average; training itself goes on from the plain weights. The mean is
kept in fp32 and in every checkpoint. Source: Izmailov et al. 2018 (stochastic weight averaging).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import torch
from torch import Tensor, nn


class WeightAverage:
    """The running mean of a model's parameters; `count` steps are in it. Parameters are read and written within
    `opened(parameter)`."""

    def __init__(self, model: nn.Module, opened: Callable[[nn.Parameter], AbstractContextManager]):
        self.count = 0
        self._opened = opened
        self._parameters = dict(model.named_parameters())
        self._mean = {name: parameter.float() for name, parameter in self._values().items()}

    @torch.no_grad()
    def add(self) -> None:
        """Take in the parameters as they are."""
        self.count += 1
        for name, parameter in self._parameters.items():
            with self._opened(parameter):
                self._mean[name].lerp_(parameter.float(), 1.0 / self.count)

    def tensors(self) -> dict[str, Tensor]:
        """As a checkpoint holds them."""
        return {f"average.{name}": mean for name, mean in self._mean.items()}

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Within: the model has the averaged parameters, if there is anything in the average."""
        if not self.count:
            yield
            return
        plain = self._values()
        self._write(self._mean)
        try:
            yield
        finally:
            self._write(plain)

    def _values(self) -> dict[str, Tensor]:
        values = {}
        for name, parameter in self._parameters.items():
            with self._opened(parameter):
                values[name] = parameter.detach().clone()
        return values

    @torch.no_grad()
    def _write(self, values: dict[str, Tensor]) -> None:
        for name, parameter in self._parameters.items():
            with self._opened(parameter):
                parameter.copy_(values[name])

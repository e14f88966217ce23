"""Averaged weights: the equal-weight mean of the parameters after every step of the last part of training.

What is delivered, and evaluated at the end, is the average; training itself goes on from the plain weights. The mean is
kept in fp32 and in every checkpoint. Source: Izmailov et al. 2018 (stochastic weight averaging).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from athanor.tasks.trainer.observers.kind import Observer, Scene
from athanor.tasks.trainer.process.stop_check import StopAsked


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
        except StopAsked:  # on all ranks at once, and the run is saved with what it has here
            self._write(plain)
            raise
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


class Averaging(Observer):
    """The average that a recipe asks for with `average_from`."""

    name = "averaging"

    def __init__(self, scene: Scene):
        super().__init__(scene)
        self._from = scene.spec.train.average_from
        engine = scene.engine
        self._average = WeightAverage(engine.model, engine.opened) if self._from is not None else None

    def learned(self, step: int, progress: float) -> None:
        if self._average is not None and self._from is not None and progress >= self._from:
            self._average.add()

    def delivering(self) -> AbstractContextManager:
        return self._average.applied() if self._average is not None else nullcontext()

    def tensors(self) -> dict[str, Tensor]:
        return self._average.tensors() if self._average is not None else {}

    def state(self) -> dict[str, Any]:
        return {"averaged_steps": self._average.count if self._average is not None else 0}

    def restore(self, state: dict[str, Any]) -> None:
        if self._average is not None:
            self._average.count = state["averaged_steps"]

    def summary(self) -> dict[str, Any]:
        return self.state()


DECLARED = Averaging

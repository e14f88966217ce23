"""Threads that stand for the ranks of a run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier, get_ident
from typing import TypeVar

import torch

A = TypeVar("A")
T = TypeVar("T")


class Meeting:
    """As many threads as ranks, and the sum over them."""

    def __init__(self, ranks: int):
        self._barrier, self._given = Barrier(ranks, timeout=60), {}

    def total(self, values: torch.Tensor) -> torch.Tensor:
        """Elementwise sum of what every rank gives, in place."""
        self._given[get_ident()] = values.clone()
        self._barrier.wait()
        total = torch.stack(list(self._given.values())).sum(0)
        self._barrier.wait()
        return values.copy_(total)

    def run(self, function: Callable[[A], T], arguments: Sequence[A]) -> list[T]:
        """`function` of each rank's argument, at the same time."""
        with ThreadPoolExecutor(len(arguments)) as pool:
            return list(pool.map(function, arguments))

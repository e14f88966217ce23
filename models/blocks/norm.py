"""Norms with a learned gain, over the last axis; of a tensor, or of the residual stream with what a branch adds to it.

    y = norm(x);    s, y = norm(x, branch),  s = x + branch,  y = norm(s)

A block that adds and norms in one call reads and writes the stream once where two calls would read it again. A norm
that only products read, `before_products`, writes what autocast would make of it for each of them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, overload

import torch
from torch import Tensor, nn

from athanor.kernels.precision import autocast_dtype
from athanor.kernels.rms_norm import add_rms_norm, rms_norm


class Norm(nn.Module, ABC):
    """What stands before or after a branch."""

    def __init__(self, *, before_products: bool = False):
        super().__init__()
        self.before_products = before_products

    if TYPE_CHECKING:

        @overload
        def __call__(self, x: Tensor) -> Tensor: ...
        @overload
        def __call__(self, x: Tensor, branch: Tensor) -> tuple[Tensor, Tensor]: ...
        def __call__(self, x: Tensor, branch: Tensor | None = None) -> Tensor | tuple[Tensor, Tensor]: ...

    def forward(self, x: Tensor, branch: Tensor | None = None) -> Tensor | tuple[Tensor, Tensor]:
        """The norm of x; or x + branch, and its norm."""
        return self.normed(x) if branch is None else self.add_normed(x, branch)

    def dtype_asked(self, x: Tensor) -> torch.dtype | None:
        """That of the norm of x where it is another one than that of x."""
        return autocast_dtype(x) if self.before_products else None

    @abstractmethod
    def normed(self, x: Tensor) -> Tensor:
        """The norm of x, of its shape, in `dtype_asked`."""

    def add_normed(self, x: Tensor, branch: Tensor) -> tuple[Tensor, Tensor]:
        """x + branch and its norm."""
        total = x + branch
        return total, self.normed(total)


class NoNorm(Norm):
    """In place of one."""

    def normed(self, x: Tensor) -> Tensor:
        return x


class RMSNorm(Norm):
    """x * gain / sqrt(mean(x^2) + eps); `gain=False` leaves the gain out."""

    def __init__(self, width: int, eps: float, gain: bool = True, *, before_products: bool = False):
        super().__init__(before_products=before_products)
        self.gain = nn.Parameter(torch.ones(width)) if gain else None
        self.eps = eps

    def normed(self, x: Tensor) -> Tensor:
        return rms_norm(x, self.gain, self.eps, self.dtype_asked(x))

    def add_normed(self, x: Tensor, branch: Tensor) -> tuple[Tensor, Tensor]:
        return add_rms_norm(x, branch, self.gain, self.eps, self.dtype_asked(x))


class LayerNorm(Norm):
    """(x - mean(x)) * gain / sqrt(var(x) + 1e-5) + bias, statistics in fp32."""

    def __init__(self, width: int, *, before_products: bool = False):
        super().__init__(before_products=before_products)
        self.gain = nn.Parameter(torch.ones(width))
        self.bias = nn.Parameter(torch.zeros(width))

    def normed(self, x: Tensor) -> Tensor:
        normed = nn.functional.layer_norm(x.float(), self.gain.shape, self.gain.float(), self.bias.float(), 1e-5)
        return normed.to(self.dtype_asked(x) or x.dtype)

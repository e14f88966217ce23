"""What the passes of a training step show, as sums with their own counts.

A diagnostic is a ratio over all that counts in a step, which is the tokens of every slice on every rank. So a pass
takes no mean: it adds to the tally of its `Loss`, a step adds up its slices', then its ranks', and divides once.
A diagnostic is then the same in any slices and on any ranks, and what does not count is in neither of its two numbers.
Variances and smallest shares are computed from these ratios. Nothing leaves the device before `means`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

Means = Mapping[str, Sequence[float]]
"""By name, the mean of each part of a value over a whole step. What nothing counted for has no name."""


class Tally:
    """Sums and counts by name, without gradient."""

    def __init__(self) -> None:
        self._totals: dict[str, Tensor] = {}  # fp64 [P + 1]: the sums of a value's parts, then how many were counted

    @torch.no_grad()
    def add(self, name: str, values: Tensor, counted: Tensor) -> None:
        """Values `[*N]`, or `[*N, P]` of P parts each, of which those marked in bool `counted` `[*N]` count."""
        values_NP = values.detach().double().reshape(counted.numel(), values.shape[counted.ndim :].numel())
        sums_P = torch.where(counted.reshape(-1, 1), values_NP, 0.0).sum(0)
        self._take(name, torch.cat((sums_P, counted.sum().double()[None])))

    def absorb(self, other: Tally) -> None:
        """Add what another pass counted."""
        for name, total in other._totals.items():
            self._take(name, total)

    def means(self, total: Callable[[Tensor], Tensor]) -> dict[str, list[float]]:
        """See `Means`. `total` sums a tensor over the ranks, whose tallies have the same names: it is called once."""
        if not self._totals:
            return {}
        summed = total(torch.cat(list(self._totals.values()))).cpu()
        parts = summed.split([len(one) for one in self._totals.values()])
        found = zip(self._totals, parts, strict=True)
        return {name: (one[:-1] / one[-1]).tolist() for name, one in found if one[-1] > 0}

    def _take(self, name: str, total: Tensor) -> None:
        self._totals[name] = self._totals[name] + total if name in self._totals else total

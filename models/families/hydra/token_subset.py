"""Some tokens of each row, gathered into shorter rows so that only they are computed.

The shorter rows are as long as the row with the most needs; places left over in the others compute something that is
dropped. How many tokens go through a matrix product may change the order of its sums, so what a token yields depends on
how many others were chosen, but only within the rounding of those sums.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class TokenSubset:
    """Columns `index_BN` of a batch of `columns` columns; only those marked in `chosen_BN` count."""

    index_BN: Tensor
    chosen_BN: Tensor
    columns: int

    @classmethod
    def of(cls, chosen_BT: Tensor) -> TokenSubset:
        """The tokens marked True, each row's in their order."""
        count_B = chosen_BT.sum(1)
        most = int(count_B.max())
        index_BN = torch.argsort(chosen_BT.byte(), dim=1, descending=True, stable=True)[:, :most]
        chosen_BN = torch.arange(most, device=index_BN.device) < count_B[:, None]
        return cls(index_BN, chosen_BN, chosen_BT.shape[1])

    def gather(self, x: Tensor) -> Tensor:
        """`[B, T, ...]` -> `[B, N, ...]`."""
        index = self.index_BN.view(*self.index_BN.shape, *[1] * (x.ndim - 2))
        return x.gather(1, index.expand(*self.index_BN.shape, *x.shape[2:]))

    def spread(self, x_BND: Tensor) -> Tensor:
        """`[B, N, D]` -> `[B, T, D]`, zero for the tokens not chosen."""
        index_BN1 = torch.where(self.chosen_BN, self.index_BN, self.columns)[:, :, None]  # the rest beyond the row
        zeros = x_BND.new_zeros(x_BND.shape[0], self.columns + 1, x_BND.shape[2])
        return zeros.scatter(1, index_BN1.expand_as(x_BND), x_BND)[:, : self.columns]

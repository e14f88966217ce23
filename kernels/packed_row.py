"""A row of whole documents, one after the other, and the rows of a batch that those documents become.

In such a row no token is padding, and attention needs no score between two documents. As rows of a batch the
documents end together: row n is document n behind `longest - lengths[n]` places of padding, which hold zero.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor


@dataclass(frozen=True)
class PackedRow:
    """N documents of `lengths` tokens, each at least 1."""

    lengths: tuple[int, ...]

    @property
    def longest(self) -> int:
        """Length of the rows that the documents become."""
        return max(self.lengths)

    def doc_start(self, device: torch.device) -> Tensor:
        """int64 `[1, T]`: where the document of each of the row's T tokens begins."""
        length_N = torch.tensor(self.lengths, device=device)
        return (length_N.cumsum(0) - length_N).repeat_interleave(length_N)[None]

    def padding(self, device: torch.device) -> Tensor:
        """int64 `[N, 1]`: where each document begins in the row it becomes."""
        return torch.tensor([[self.longest - length] for length in self.lengths], device=device)

    def newest(self, x_1T: Tensor, count: int) -> Tensor:
        """`[1, T, ...]` -> `[N, count, ...]`: each document's last positions, zero before its first. Of a longer x the
        last T positions are the row's."""
        device, earlier = x_1T.device, x_1T.shape[1] - sum(self.lengths)
        end_N1 = earlier + torch.tensor(list(accumulate(self.lengths)), device=device)[:, None]
        age_C = torch.arange(count, 0, -1, device=device)
        held_NC = age_C <= torch.tensor(self.lengths, device=device)[:, None]
        found = x_1T[0, (end_N1 - age_C).clamp(min=0)]
        return torch.where(held_NC.view(*held_NC.shape, *[1] * (x_1T.ndim - 2)), found, 0)

    def rows(self, x_1T: Tensor) -> Tensor:
        """`[1, T, ...]` -> `[N, longest, ...]`."""
        return self.newest(x_1T, self.longest)


def newest(x_BT: Tensor, count: int, packed: PackedRow | None) -> Tensor:
    """The last `count` positions of every row of `[B, T, ...]`; of a packed row's every document."""
    return x_BT[:, x_BT.shape[1] - count :] if packed is None else packed.newest(x_BT, count)

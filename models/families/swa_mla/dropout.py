"""The dropout of one forward pass, which leaves out nothing unless it is a training step's.

Masks follow the row's key and the position in the row (kernels/dropout.py).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from athanor.kernels.dropout import dropout
from athanor.kernels.noise import keys_at
from athanor.models.skeleton import Context


@dataclass(frozen=True)
class Dropout:
    """Call it with the values, and a stream that no others of the pass have."""

    share: float
    key_BT: Tensor | None

    @classmethod
    def of(cls, context: Context, length: int, share: float | None) -> Dropout:
        """That of whole rows of `length` tokens; `share` None, or rows without keys, leave out nothing."""
        if share is None or context.row_key_B is None:
            return cls(0.0, None)
        column_1T = torch.arange(length, device=context.row_key_B.device)[None]
        return cls(share, keys_at(context.row_key_B[:, None], column_1T))

    def __call__(self, x_BTD: Tensor, stream: int) -> Tensor:
        return x_BTD if self.key_BT is None else dropout(x_BTD, self.key_BT, stream, self.share)

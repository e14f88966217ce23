"""The k-th largest of numbers that may lie on several ranks, exactly and without sending any of them.

Floating-point numbers are ordered like the integers their bits are, but for the sign. The answer is built bit by bit,
the highest first: a bit is set where still k numbers are as large. Every rank counts its own, so 32 sums of one count
for each row cross the network, and the answer is the same bits for any division into ranks and slices.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

_SIGN = -(2**31)


def _ordered(x: Tensor) -> Tensor:
    """int32 in the order of fp32 numbers, both zeros being 0."""
    bits = x.view(torch.int32)
    return torch.where(bits >= 0, bits, -(bits & ~_SIGN))


def kth_largest(x_RN: Tensor, k_R: Tensor, total: Callable[[Tensor], Tensor]) -> Tensor:
    """fp32 `[R]`: in each row of the fp32 numbers of all ranks, the k-th largest, k from 1 to as many as there are (for
    a smaller or larger k: nothing of meaning). `total` sums a tensor over the ranks; each may have other columns."""
    key_RN = _ordered(x_RN)
    found_R = torch.full_like(k_R, _SIGN)
    for bit in reversed(range(32)):
        tried_R = found_R + (1 << bit)
        count_R = total((key_RN >= tried_R.int()[:, None]).sum(1))
        found_R = torch.where(count_R >= k_R, tried_R, found_R)
    return torch.where(found_R >= 0, found_R, _SIGN - found_R).int().view(torch.float32)

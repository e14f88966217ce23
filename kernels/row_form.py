"""Tensors as rows: what kernels that work along the last axis address, whatever the axes before it are.

A contiguous tensor is one row as well; a half of a packed product is rows that lie further apart than they are long.
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class Rows(NamedTuple):
    """`count` rows of `width` elements side by side, `stride` elements from one row to the next."""

    count: int
    width: int
    stride: int


def rows_of(x: Tensor) -> Rows | None:
    """The rows of `x [..., width]`; None where no one stride leads from each row to the next."""
    width = x.shape[-1]
    if x.numel() == 0:
        return Rows(0, width, width)
    if width > 1 and x.stride(-1) != 1:
        return None
    stride, count = None, 1
    for size, step in zip(reversed(x.shape[:-1]), reversed(x.stride()[:-1]), strict=True):
        if size == 1:
            continue
        if stride is None:
            stride = step
        elif step != stride * count:
            return None
        count *= size
    return Rows(count, width, width if stride is None else stride)


def common_rows(*tensors: Tensor) -> tuple[int, int, list[int]]:
    """How many rows tensors of one shape have, how wide they are, and each tensor's stride from one row to the next;
    all of it one row where all are contiguous. Each must have rows."""
    if all(x.is_contiguous() for x in tensors):
        return 1, tensors[0].numel(), [0] * len(tensors)
    rows = [rows_of(x) for x in tensors]
    return rows[0].count, rows[0].width, [each.stride for each in rows]  # pyright: ignore[reportOptionalMemberAccess]

"""How kernels that treat the rows of a tensor `[..., D]` one like the other share them out.

A program holds a tile of whole rows in registers and goes through its share of the rows tile by tile. What belongs to
the channels (gains, their gradients) it reads or writes once, so that shares have a least size. They follow from the
shape alone: sums over the rows, added up program by program, have the same bits every time.
"""

from __future__ import annotations

from dataclasses import dataclass

import triton
from torch import Tensor

LEAST_ROWS, MOST_PROGRAMS = 16, 2048
TILE_VALUES, VALUES_A_WARP = 2048, 512
MOST_CHANNELS = 8192  # of a row that fits the registers of a program


@dataclass(frozen=True)
class RowTiles:
    """`programs` programs of `rows_each` rows, in tiles of `tile_rows` rows of `tile_channels` channels."""

    programs: int
    rows_each: int
    tile_rows: int
    tile_channels: int
    num_warps: int

    @classmethod
    def of(cls, rows: int, channels: int, least_rows: int = LEAST_ROWS) -> RowTiles:
        """Those of `rows` rows of `channels` channels, where a program has `least_rows` rows or more."""
        rows_each = max(least_rows, -(-rows // MOST_PROGRAMS))
        tile_channels = max(1, triton.next_power_of_2(channels))
        tile_rows = min(LEAST_ROWS, max(1, TILE_VALUES // tile_channels))
        return cls(-(-rows // rows_each), rows_each, tile_rows, tile_channels, warps_for(tile_rows * tile_channels))


def warps_for(tile_values: int) -> int:
    """How many warps hold that many values in their registers, at a few tensors' worth of them."""
    return min(16, max(1, tile_values // VALUES_A_WARP))


def as_rows(x: Tensor) -> Tensor:
    """`[..., D]` -> `[N, D]` whose channels are neighbours in memory: a view where there is one, else a copy."""
    rows_ND = x.reshape(-1, x.shape[-1])
    return rows_ND if rows_ND.stride(1) == 1 else rows_ND.contiguous()


def unfit_rows(x: Tensor) -> str | None:
    """Why the rows of `x [..., D]` cannot be held in tiles; None where they can. For `refuses`."""
    channels = x.shape[-1]
    return None if 0 < channels <= MOST_CHANNELS else f"rows of {channels:,} channels, not 1 to {MOST_CHANNELS:,}"


def size_bytes(x: Tensor) -> int:
    """Of all elements, once."""
    return x.numel() * x.element_size()

"""Adafactor (Shazeer and Stern 2018, arXiv 1804.04235), torch's own: one number a row and a column of a matrix.

Its rate is relative to the size of the matrix, so it is larger than AdamW's. It has no sharded form.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from athanor.tasks.trainer.optimizers.kind import FP32_BYTES, OptimizerKind

if TYPE_CHECKING:
    from torch import Tensor


def _state_bytes(name: str, parameter: Tensor) -> float:
    if parameter.ndim < 2:
        return parameter.numel() * FP32_BYTES
    rows, columns = parameter.numel() // parameter.shape[-1], parameter.numel() // parameter.shape[-2]
    return (rows + columns) * FP32_BYTES


def _build(groups: list[dict[str, Any]], model: Any, **arguments: Any) -> Any:
    import torch

    return torch.optim.Adafactor(groups, **arguments)


DECLARED = OptimizerKind(
    name="adafactor",
    defaults={"weight_decay": 0.1},
    build=_build,
    state_bytes=_state_bytes,
    relative_lr=10.0,
)

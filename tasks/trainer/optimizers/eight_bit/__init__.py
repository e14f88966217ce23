"""AdamW and Lion with 8-bit moments. bitsandbytes takes seconds to import, so `flat_state` waits until it is asked."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor
from torch.optim import Optimizer

from athanor.tasks.trainer.optimizers.adamw import ADAMW
from athanor.tasks.trainer.optimizers.kind import FP32_BYTES, OptimizerKind, StateBytes, moments
from athanor.tasks.trainer.optimizers.lion import LION, LION_RELATIVE_LR

QUANTISED_FROM, BLOCK, TABLE = 4096, 256, 256  # elements; bitsandbytes' choice


def _adamw(groups: list[dict[str, Any]], model: object, **arguments: Any) -> Optimizer:
    from athanor.tasks.trainer.optimizers.eight_bit.flat_state import AdamW8bitFlat

    return AdamW8bitFlat(groups, **arguments)


def _lion(groups: list[dict[str, Any]], model: object, **arguments: Any) -> Optimizer:
    from athanor.tasks.trainer.optimizers.eight_bit.flat_state import Lion8bitFlat

    return Lion8bitFlat(groups, **arguments)


def _quantised(count: int) -> StateBytes:
    def state_bytes(name: str, parameter: Tensor) -> float:
        elements = parameter.numel()
        if elements < QUANTISED_FROM:
            return moments(count)(name, parameter)
        return count * (elements + FP32_BYTES * (math.ceil(elements / BLOCK) + TABLE))

    return state_bytes


DECLARED = (
    OptimizerKind("adamw-8bit", defaults=ADAMW, build=_adamw, state_bytes=_quantised(2)),
    OptimizerKind("lion-8bit", defaults=LION, build=_lion, state_bytes=_quantised(1), relative_lr=LION_RELATIVE_LR),
)

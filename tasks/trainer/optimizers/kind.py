"""What an optimizer declares of itself, and the table of those there are.

A module of this package declares in `DECLARED` its optimizer, or a tuple of them. The recipe, the builder, the plan's
memory, the engines, the training step and the comparison read the table, so a new optimizer is one file.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from athanor.core.kinds import Kinds

if TYPE_CHECKING:
    from torch import Tensor
    from torch.optim import Optimizer

FP32_BYTES, BF16_BYTES = 4, 2
AfterUpdate = Callable[[Any, Callable[[], int]], None]
StateBytes = Callable[[str, "Tensor"], float]


@dataclass(frozen=True)
class OptimizerKind:
    """One optimizer.

    name         as a recipe says it
    defaults     the fields of `TrainRecipe` that it reads, and their values where a recipe is silent
    build        (parameter groups, model, **arguments) -> the optimizer, without state. Arguments are `lr` and the
                 fields read, as torch names them: beta1 with beta2 is `betas`; weight_decay is in the groups
    state_bytes  (name, parameter) -> bytes of the parameter's state, by its shape alone
    sharded_by   the engines under which its update of a sharded parameter is that of the whole one
    beta_limit   the largest beta it can carry out; none any
    relative_lr  the peak rate that serves where AdamW's is 1; for comparisons
    after_update what it does after an update, if anything: (optimizer, sampled_gradient), where `sampled_gradient()`
                 replaces the gradients by those of the step's mean `LanguageModel.sampled_loss` at the new weights and
                 returns over how many targets
    """

    name: str
    defaults: Mapping[str, float]
    build: Callable[..., Optimizer]
    state_bytes: StateBytes
    sharded_by: tuple[str, ...] = ()
    beta_limit: float | None = None
    relative_lr: float = 1.0
    after_update: AfterUpdate | None = None


OPTIMIZERS: Kinds[OptimizerKind] = Kinds("optimizer", "athanor.tasks.trainer.optimizers", "DECLARED")


def moments(count: int, element_bytes: int = FP32_BYTES) -> StateBytes:
    """State of `count` tensors of the parameter's shape."""
    return lambda name, parameter: count * element_bytes * parameter.numel()

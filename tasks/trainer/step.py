"""One optimizer step: gradients of a whole batch in slices that fit the device, clipping, update.

Every slice's summed loss is divided by the number of target tokens of the *whole* step, so rows weigh by what they
teach however they are packed or sliced. When a GPU runs out of memory the same samples are tried again in slices half
as long; nothing of the failed try remains, for gradients are cleared and noise is a function of the row's key.
"""

from __future__ import annotations

import gc
import math
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch

from data.errors import UserError
from data.loader import Batch
from kernels.cross_entropy import IGNORE
from models.skeleton import LanguageModel, Loss
from tasks.trainer.batches import rows_of
from tasks.trainer.config import TrainRecipe
from tasks.trainer.optimizers.build import build_optimizer
from tasks.trainer.optimizers.sophia import SophiaG

SLICE_TOKENS = {"cpu": 8_192, "cuda": 16_384}  # forward and backward at once


@dataclass(frozen=True)
class StepResult:
    """Loss in nats per target token, gradient norm before clipping, auxiliary values averaged over the targets."""

    loss: float
    grad_norm: float
    aux: dict[str, float]


class Optimization:
    """The model, its optimizer, and how a batch becomes a step. `say` hears when the slices had to shrink."""

    def __init__(
        self,
        model: LanguageModel,
        recipe: TrainRecipe,
        device: torch.device,
        autocast: AbstractContextManager,
        slice_rows: int | None,
        say: Callable[[str], None],
    ):
        self.model = model
        self.optimizer = build_optimizer(model, recipe, device)
        self._recipe = recipe
        self._device = device
        self._autocast = autocast
        automatic = max(1, SLICE_TOKENS[device.type] // recipe.seq_len_tokens)
        self._slice_rows = min(slice_rows or automatic, recipe.batch_rows)
        self._say = say
        self._parameters = [p for group in self.optimizer.param_groups for p in group["params"]]

    def step(self, batch: Batch, lr: float) -> StepResult:
        """Learn from one batch. Raises UserError when loss or gradient is not a finite number, before any update."""
        if isinstance(self.optimizer, SophiaG) and self.optimizer.curvature_due():
            self._gradients(batch, self.model.sampled_loss)
            self.optimizer.update_curvature(int((batch.targets_BT != IGNORE).sum()))
            self.optimizer.zero_grad()
        totals = self._gradients(batch, self.model.loss)
        for parameter in self._parameters:
            if parameter.grad is None:  # unused in this step; its optimizer state must exist all the same
                parameter.grad = torch.zeros_like(parameter)
        norm = torch.nn.utils.clip_grad_norm_(self._parameters, self._recipe.grad_clip, foreach=True)
        values = {name: total.item() for name, total in totals.items()}
        result = StepResult(values.pop("loss"), norm.item(), values)
        if not math.isfinite(result.loss + result.grad_norm):
            raise UserError(
                f"training diverged: loss {result.loss}, gradient norm {result.grad_norm}; "
                f"lower train.peak_lr (now {self._recipe.peak_lr}) or lengthen train.warmup_steps"
            )
        for group in self.optimizer.param_groups:
            group["lr"] = lr * group.get("lr_scale", 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return result

    def _gradients(self, batch: Batch, loss_of: Callable[..., Loss]) -> dict[str, torch.Tensor]:
        while True:
            try:
                return self._accumulate(batch, loss_of)
            except torch.OutOfMemoryError:
                if self._slice_rows == 1:
                    raise
            self._slice_rows = (self._slice_rows + 1) // 2
            self.optimizer.zero_grad()
            gc.collect()
            torch.cuda.empty_cache()
            self._say(f"out of device memory; going on with {self._slice_rows} rows at a time")

    def _accumulate(self, batch: Batch, loss_of: Callable[..., Loss]) -> dict[str, torch.Tensor]:
        rows = len(batch.ids_BT)
        targets = max(1, int((batch.targets_BT != IGNORE).sum()))
        totals: dict[str, torch.Tensor] = {}
        for start in range(0, rows, self._slice_rows):
            with self._autocast:
                loss = loss_of(**rows_of(batch, start, min(rows, start + self._slice_rows), self._device))
            parts = {"loss": loss.total / targets}
            parts |= {name: value * loss.tokens / targets for name, value in loss.aux.items()}
            torch.stack(list(parts.values())).sum().backward()
            totals = {name: totals.get(name, 0.0) + part.detach() for name, part in parts.items()}
        return totals

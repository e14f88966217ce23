"""One training step in two halves: `measure` finds loss and gradient, then `update` learns or `discard` forgets.

A rank computes its rows in slices that fit the device. Every slice's summed loss is divided by the number of target
tokens of the *whole* step, and its auxiliary losses weigh by its share of the tokens that count for them, so rows weigh
by what they teach however they are packed, sliced or spread over ranks. When a GPU runs out of memory the same samples
are tried again in slices half as long; nothing of the failed try remains, for gradients are cleared and noise is a
function of the row's key.
"""

from __future__ import annotations

import gc
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch

from athanor.core.targets import IGNORE
from athanor.data.loader import Batch
from athanor.models.skeleton import LanguageModel, Loss, counted_tokens
from athanor.models.tally import Means, Tally
from athanor.tasks.trainer.engines.engine import Engine
from athanor.tasks.trainer.optimizers.kind import AfterUpdate
from athanor.tasks.trainer.step.batches import rows_of

LossOf = Callable[[dict[str, torch.Tensor]], Loss]


@dataclass(frozen=True)
class StepResult:
    """Loss in nats per target token, gradient norm before clipping, auxiliary losses, and what the rows of all ranks
    showed, for the model's diagnostics."""

    loss: float
    grad_norm: float
    aux: dict[str, float]
    means: Means


class Optimization:
    """How batches become steps of an engine. `after_update` is what its optimizer does after an update, if anything;
    `say` hears when the slices had to shrink; `stop_check` is called before each slice of `measure` and may raise."""

    def __init__(
        self,
        engine: Engine,
        grad_clip: float,
        device: torch.device,
        autocast: AbstractContextManager,
        slice_tokens: int,
        after_update: AfterUpdate | None,
        say: Callable[[str], None],
        stop_check: Callable[[], None] = lambda: None,
    ):
        self.engine = engine
        self._grad_clip = grad_clip
        self._device = device
        self._autocast = autocast
        self.slice_tokens = slice_tokens
        self._after_update = after_update
        self._say = say
        self._stop_check = stop_check

    def measure(self, batch: Batch, step_key: int) -> StepResult:
        """Loss and clipped gradient of this rank's rows of a step; `step_key` as in `LanguageModel.begin_step`. Where
        the stop check raises, `discard` forgets what was measured by then."""
        self._measured = batch, step_key
        totals, tally = self._gradients(batch, step_key, self.engine.loss, self._stop_check)
        norm = self.engine.clip(self._grad_clip)
        names, sums = list(totals), torch.stack([total.double() for total in totals.values()])
        values = dict(zip(names, self.engine.world.sum(sums).tolist(), strict=True))
        return StepResult(values.pop("loss"), norm.item(), values, tally.means(self.engine.world.sum))

    def update(self, lr: float) -> None:
        """Learn from what was measured."""
        self.engine.update(lr)
        if self._after_update is not None:
            self._after_update(self.engine.optimizer, self._sampled_gradient)
            self.engine.discard()

    def discard(self) -> None:
        """Forget what was measured."""
        self.engine.discard()

    def row_losses(self, batch: Batch, step_key: int) -> list[float]:
        """Mean loss of each of this rank's rows as training sees it, nats per target: to find the row that is bad."""
        self.engine.model.begin_step(step_key)

        def compute(model: LanguageModel) -> list[float]:
            losses = []
            for row in range(len(batch.ids_BT)):
                with self._autocast:
                    loss = model.loss(**rows_of(batch, row, row + 1, self._device))
                losses.append((loss.total / loss.tokens.clamp(min=1)).item())
            return losses

        return self.engine.compute(compute)

    def _sampled_gradient(self) -> int:
        """Gradients of the mean sampled loss of the rows just learned from; returns the step's target tokens."""
        batch, step_key = self._measured
        self._gradients(batch, step_key, self.engine.sampled_loss, lambda: None)
        targets, _ = self._counts(batch)
        return targets

    def _gradients(
        self, batch: Batch, step_key: int, loss_of: LossOf, before_slice: Callable[[], None]
    ) -> tuple[dict[str, torch.Tensor], Tally]:
        while True:
            try:
                return self._accumulate(batch, step_key, loss_of, before_slice)
            except torch.OutOfMemoryError:
                row_tokens = batch.ids_BT.shape[1]
                rows = self.slice_tokens // row_tokens
                if rows <= 1 or self.engine.world.size > 1:
                    raise
            rows = (rows + 1) // 2
            self.slice_tokens = rows * row_tokens
            self.engine.discard()
            gc.collect()
            torch.cuda.empty_cache()
            self._say(f"out of device memory; going on with {rows} rows at a time")

    def _accumulate(
        self, batch: Batch, step_key: int, loss_of: LossOf, before_slice: Callable[[], None]
    ) -> tuple[dict[str, torch.Tensor], Tally]:
        """This rank's share of the losses, and what its slices showed."""
        self.engine.model.begin_step(step_key)
        rows, row_tokens = batch.ids_BT.shape
        slice_rows = max(1, self.slice_tokens // row_tokens)
        targets, counted = (max(1, count) for count in self._counts(batch))
        totals: dict[str, torch.Tensor] = {}
        tally = Tally()
        for start in range(0, rows, slice_rows):
            stop = min(rows, start + slice_rows)
            before_slice()
            with self.engine.slice(last=stop == rows):
                with self._autocast:
                    loss = loss_of(rows_of(batch, start, stop, self._device))
                parts = {"loss": loss.total / targets}
                parts |= {name: value * loss.counted / counted for name, value in loss.aux.items()}
                self.engine.backward(torch.stack(list(parts.values())).sum())
            totals = {name: totals.get(name, 0.0) + part.detach() for name, part in parts.items()}
            tally.absorb(loss.tally)
        return totals, tally

    def _counts(self, batch: Batch) -> tuple[int, int]:
        """Target tokens of the step over all ranks, and the tokens that count for auxiliary losses."""
        targets_BT, doc_start_BT = torch.from_numpy(batch.targets_BT), torch.from_numpy(batch.doc_start_BT)
        own = torch.stack([(targets_BT != IGNORE).sum(), counted_tokens(targets_BT, doc_start_BT).sum()])
        targets, counted = self.engine.world.sum(own.to(self._device)).tolist()
        return targets, counted

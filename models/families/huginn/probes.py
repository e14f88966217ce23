"""How a depth-recurrent model uses its iterations on real text: movement of the states, loss and exits by step.

Hooks only collect what the core was first given; the iterations are replayed when the maps are asked for, and the
coda reads the state after every one of them. So loss by depth is exactly that of the model run at that depth, and an
exit is where a token would stop with all others at full depth.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from athanor.models.families.huginn.exit_criteria import CRITERIA, ExitRule, Watch
from athanor.models.families.huginn.iteration import Piece, Recurrent
from athanor.models.maps import Map

_SAMPLE_TOKENS = 2048
_QUANTILES = {"a tenth of the tokens below": 0.1, "median": 0.5, "a tenth above": 0.9}


@dataclass(frozen=True)
class ProbedRows:
    """Some rows as the core first sees them."""

    ids_BT: Tensor
    s_BTD: Tensor
    e_BTD: Tensor
    piece: Piece

    def followed(self) -> Tensor:
        """Whether the next token continues the document, bool `[B, T-1]`."""
        followed_BT = torch.ones_like(self.ids_BT[:, 1:], dtype=torch.bool)
        span = self.piece.span
        if span is None:
            return followed_BT
        return followed_BT & (span.doc_start_BT[:, 1:] < torch.arange(1, span.queries, device=followed_BT.device))


class RecurrenceProbe:
    """Collects up to _SAMPLE_TOKENS tokens, whole rows."""

    def __init__(self, model: Recurrent):
        self._model = model
        self._steps = 0
        self._ids_BT: Tensor | None = None
        self._samples: list[ProbedRows] = []

    def attach(self) -> list[RemovableHandle]:
        return [
            self._model.embedding.register_forward_hook(self._see_ids),
            self._model.core.register_forward_hook(self._see_state),
        ]

    def _see_ids(self, _embedding: nn.Module, args: tuple[Tensor, ...], _out: Tensor) -> None:
        self._ids_BT = args[0]
        self._steps = self._model.recurrence.steps

    def _see_state(self, _core: nn.Module, args: tuple[Any, ...], _out: Tensor) -> None:
        ids_BT, self._ids_BT = self._ids_BT, None
        if ids_BT is None:  # not the first iteration
            return
        room = _SAMPLE_TOKENS - sum(sample.ids_BT.numel() for sample in self._samples)
        rows = min(len(ids_BT), max(not self._samples, room // ids_BT.shape[1]))
        if rows:
            s_BTD, e_BTD, piece = args[:3]
            self._samples.append(ProbedRows(ids_BT[:rows], s_BTD[:rows], e_BTD[:rows], piece.of_rows(rows)))

    @torch.no_grad()
    def maps(self) -> list[Map]:
        if not self._samples:
            return []
        changes_RN, losses_R, exits_CR = zip(*map(self._replay, self._samples), strict=True)
        tokens = sum(sample.ids_BT.numel() for sample in self._samples)
        measured = f"{tokens:,} tokens of held-out text, {self._steps} iterations, noise of the evaluation key."
        steps = [str(step + 1) for step in range(self._steps)]
        targets = sum(int(sample.followed().sum()) for sample in self._samples)
        return [
            self._trajectory(torch.cat(changes_RN, dim=1), steps, measured),
            self._loss(torch.stack(losses_R).sum(0) / max(1, targets), steps, measured),
            self._exits(torch.stack(exits_CR).sum(0) / tokens, steps, measured),
        ]

    def _replay(self, sample: ProbedRows) -> tuple[Tensor, Tensor, Tensor]:
        """Relative change of every token's state `[R, N]`, summed losses `[R]`, exits by criterion `[C, R]`."""
        model, s_BTD = self._model, sample.s_BTD
        followed, target_N = sample.followed(), sample.ids_BT[:, 1:][sample.followed()]
        exits = [ExitRule(criterion) for criterion in CRITERIA]
        watches = [Watch(one, s_BTD, model.embedding.num_embeddings) for one in exits]
        running_CBT = torch.ones(len(exits), *sample.ids_BT.shape, dtype=torch.bool, device=s_BTD.device)
        changes, losses = [], []
        exits_CR = torch.zeros(len(exits), self._steps)
        for step in range(self._steps):
            run = model.core if step == 0 else partial(model.iterate, step=step)  # the first was seen on its way in
            before_BTD, s_BTD = s_BTD, run(s_BTD, sample.e_BTD, sample.piece)
            moved_BT = (s_BTD - before_BTD).float().norm(dim=-1) / s_BTD.float().norm(dim=-1)
            changes.append(moved_BT.flatten())
            logits_BTV = model.logits(model.final_norm(model.read(s_BTD, sample.piece))).float()
            losses.append(nn.functional.cross_entropy(logits_BTV[:, :-1][followed], target_N, reduction="sum"))
            for c, (one, watch) in enumerate(zip(exits, watches, strict=True)):
                stopped_BT = watch.stops(logits_BTV if one.reads_logits else s_BTD) | (step + 1 == self._steps)
                exits_CR[c, step] = (running_CBT[c] & stopped_BT).sum()
                running_CBT[c] &= ~stopped_BT
        return torch.stack(changes).cpu(), torch.stack(losses).cpu(), exits_CR

    def _trajectory(self, change_RN: Tensor, steps: list[str], measured: str) -> Map:
        quantiles = [change_RN.quantile(at, dim=1).tolist() for at in _QUANTILES.values()]
        return Map(
            name="latent_trajectory",
            title="How far each iteration moves the latent state",
            kind="lines",
            values=[change_RN.mean(1).tolist(), *quantiles],
            x_label="iteration",
            y_label="‖sₜ − sₜ₋₁‖ / ‖sₜ‖",
            x_ticks=steps,
            series=["mean", *_QUANTILES],
            note=f"{measured} A flat line far above 0 is a state that never settles.",
        )

    def _loss(self, loss_R: Tensor, steps: list[str], measured: str) -> Map:
        return Map(
            name="loss_by_recurrence",
            title="Loss when the core runs that often",
            kind="lines",
            values=[loss_R.tolist()],
            x_label="iterations",
            y_label="loss",
            x_ticks=steps,
            series=["held-out loss"],
            unit="nats",
            note=f"{measured} A flat line is a model that ignores its recurrence.",
        )

    def _exits(self, share_CR: Tensor, steps: list[str], measured: str) -> Map:
        return Map(
            name="exit_steps",
            title="Where each exit criterion would stop",
            kind="heatmap",
            values=share_CR.tolist(),
            x_label="iteration",
            y_label="criterion",
            x_ticks=steps,
            y_ticks=list(CRITERIA),
            unit="share of tokens",
            note=f"{measured} Default thresholds, the other tokens at full depth; the last column holds all that never "
            "stop before it.",
        )

"""Mixture of depths: a router decides token by token whether a block is worth computing.

    r = sigmoid(w x + b)
    training   y = r f(x) + (1 - r) x            every token, so r learns from the cross-entropy
    serving    y = that for tokens whose logit reaches the threshold, y = x for the others

What the gate learns besides, and how the threshold follows, is in models/families/hydra/routing.py.
Sources: Raposo et al. 2024 (arXiv 2404.02258); HYDRA.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from athanor.models.families.hydra.recipe import HydraRecipe
from athanor.models.families.hydra.routing import Routing, Sample, ThresholdRouter, best_of_documents, membership


class Gate(NamedTuple):
    """What MoD decided about the tokens of a block."""

    logit_BT: Tensor
    chosen_BT: Tensor  # those that serving computes the block for
    weight_BT: Tensor  # of what the block adds
    computed_BT: Tensor | None  # the others are skipped; None: nobody is
    samples: tuple[Sample, ...]  # one for the router's threshold in training

    def detached(self) -> Gate:
        """The same without gradient."""
        return self._replace(logit_BT=self.logit_BT.detach(), weight_BT=self.weight_BT.detach())


class MixtureOfDepths(nn.Module):
    """The gate around one block. Where `mod_infer` is topk, serving takes the best of each document, later tokens
    included. `stream` numbers the noise of the gate."""

    def __init__(self, d_model: int, section: HydraRecipe, stream: int):
        super().__init__()
        self.capacity, self.whole_document = section.capacity, section.mod_infer == "topk"
        self.router = ThresholdRouter(d_model, section.threshold_jitter, stream, start=section.capacity)

    def forward(self, x_BTD: Tensor, routing: Routing) -> tuple[Gate, dict[str, Tensor]]:
        """The gate and, in training, its auxiliary loss of each row, `[B]`, unweighted."""
        logit_BT = self.router(x_BTD).squeeze(-1)
        met_BT = self.router.scattered(logit_BT, routing.row_key_B)
        if self.whole_document and not self.training:
            chosen_BT = best_of_documents(logit_BT, routing.doc_start_BT, self.capacity)
        else:
            chosen_BT = self.router.reaches(met_BT)
        losses, samples = {}, ()
        if self.training:
            loss_B, sample = membership(logit_BT, met_BT, self.capacity, routing)
            losses, samples = {"mod": routing.mod_open * loss_B}, (sample,)
        weight_BT = 1.0 + routing.mod_open * (logit_BT.sigmoid() - 1.0)
        if routing.skipping > 0:
            weight_BT = torch.where(chosen_BT, weight_BT, (1.0 - routing.skipping) * weight_BT)
        computed_BT = chosen_BT if routing.skipping == 1 else None
        return Gate(logit_BT, chosen_BT, weight_BT, computed_BT, samples), losses

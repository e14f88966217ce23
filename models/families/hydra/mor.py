"""Mixture of recursions: a block applied up to R times with the same weights, a router deciding how often.

A recursion r maps h to Block(h + embedding[r]). `adaptive` in [0, 1] leads from R recursions for every token to what
the router wants. Tokens outside `active` keep their stream; they still write keys and values.

    gaussian       mu = (R - 1) sigmoid(w x + b), p = normalised exp(-(r - mu)^2 / 2 variance), y = sum_r p_r h[r+1].
                   Each layer starts at its own depth, from 0.4 (first) to 0.8 (last) of R - 1;
                   ponder = sum_r (r+1) p_r. exit="hard" stops a token after its most probable recursion when
                   serving. HYDRA's.
    expert_choice  at recursion r the tokens still active compete for (R - r) / R of the places; those that reach the
                   calibrated threshold (in training too, so that no future decides) get h += g Block(h),
                   g = 0.1 sigmoid(w_r h), the others stop. Bae et al. 2025, with the threshold of `CapacityRouter`.
    token_choice   p = softmax(W x) over depths at the start, the best one is taken: y = p_depth h[depth] + x; balanced
                   by a Switch loss and a z-loss. Bae et al. 2025.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from athanor.models.families.hydra.mod import CapacityRouter, best_of_documents, masked_mean, membership_loss
from athanor.models.families.hydra.moe import balance_loss

Recursion = Callable[[Tensor, int, Tensor | None], Tensor]  # h_BTD, r, active_BT -> Block(h) where active

EXPERT_CHOICE_SCALE = 0.1
EXPERT_CHOICE_LOSS = 0.001
BALANCE_LOSS = 0.1
Z_LOSS = 1e-5


class DepthRouter(nn.Module):
    """A linear layer, fp32."""

    def __init__(self, d_model: int, outputs: int, bias: bool):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(outputs, d_model))
        self.bias = nn.Parameter(torch.zeros(outputs)) if bias else None

    def forward(self, x_BTD: Tensor) -> Tensor:
        """Logits `[B, T, outputs]`."""
        with torch.autocast(x_BTD.device.type, enabled=False):
            return F.linear(x_BTD.float(), self.weight.float(), None if self.bias is None else self.bias.float())


class Recursions(nn.Module):
    """What the three kinds share. `latest["depth"]`: recursions of each token, `[B, T]`, mean ones where mixed."""

    def __init__(self, d_model: int, recursions: int):
        super().__init__()
        self.recursions = recursions
        self.embedding = nn.Embedding(recursions, d_model)
        self.latest: dict[str, Tensor] = {}

    def reset(self) -> None:
        """Parameters and buffers of a new model that are neither 0 nor drawn."""

    def expected_share(self, r: int) -> float:
        """Share of the tokens computed in recursion r when serving, as far as the design fixes it."""
        return 1.0

    def run(self, block: Recursion, h_BTD: Tensor, r: int, active_BT: Tensor | None) -> Tensor:
        """Block(h + embedding[r]) for active tokens, h for the others."""
        out_BTD = block(h_BTD + self.embedding.weight[r], r, active_BT)
        return out_BTD if active_BT is None else torch.where(active_BT[:, :, None], out_BTD, h_BTD)


class GaussianRecursions(Recursions):
    """Depth outputs mixed by a bell around the wanted depth."""

    def __init__(self, d_model: int, recursions: int, start: float, variance: float, hard_exit: bool):
        super().__init__(d_model, recursions)
        self.start, self.variance, self.hard_exit = start, variance, hard_exit
        self.router = DepthRouter(d_model, 1, bias=True)

    def reset(self) -> None:
        assert self.router.bias is not None
        self.router.bias.fill_(math.log(self.start / (1.0 - self.start)))

    def expected_share(self, r: int) -> float:
        return min(1.0, max(0.0, self.start * (self.recursions - 1) - r + 1.0)) if self.hard_exit else 1.0

    def forward(
        self,
        x_BTD: Tensor,
        block: Recursion,
        adaptive: Tensor,
        active_BT: Tensor | None,
        doc_start_BT: Tensor | None,
        counted_BT: Tensor,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        depth_R = torch.arange(self.recursions, device=x_BTD.device)
        mean_BT1 = (self.recursions - 1) * self.router(x_BTD).sigmoid()
        wanted_BTR = (-(depth_R - mean_BT1).square() / (2 * self.variance)).softmax(-1)
        full_R = (depth_R == self.recursions - 1).float()
        share_BTR = full_R + adaptive * (wanted_BTR - full_R)
        last_BT = None
        if self.hard_exit and not self.training:
            last_BT = share_BTR.argmax(-1)
            share_BTR = F.one_hot(last_BT, self.recursions).float()
        h_BTD, y_BTD = x_BTD, torch.zeros_like(x_BTD)
        for r in range(self.recursions):
            h_BTD = self.run(block, h_BTD, r, both(active_BT, None if last_BT is None else last_BT >= r))
            y_BTD = y_BTD + share_BTR[:, :, r, None] * h_BTD
        self.latest = {"depth": (share_BTR.detach() * (depth_R + 1)).sum(-1), "share": share_BTR.detach()}
        ponder = masked_mean((wanted_BTR * (depth_R + 1)).sum(-1), counted_BT)
        return y_BTD.to(x_BTD.dtype), {"ponder": adaptive * ponder}


class ExpertChoiceRecursions(Recursions):
    """Ever fewer tokens go on."""

    def __init__(self, d_model: int, recursions: int):
        super().__init__(d_model, recursions)
        routers = (CapacityRouter(d_model, start=None) for _ in range(recursions))
        self.router = cast("Sequence[CapacityRouter]", nn.ModuleList(routers))

    def expected_share(self, r: int) -> float:
        return 1.0 - r / self.recursions

    def forward(
        self,
        x_BTD: Tensor,
        block: Recursion,
        adaptive: Tensor,
        active_BT: Tensor | None,
        doc_start_BT: Tensor | None,
        counted_BT: Tensor,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        h_BTD, going_BT = x_BTD, active_BT
        depth_BT = torch.zeros(x_BTD.shape[:2], device=x_BTD.device)
        losses = []
        for r, router in enumerate(self.router):
            logit_BT = router(h_BTD)
            if r > 0:  # the first recursion has room for all
                if self.training:
                    capacity = 1.0 - adaptive * (r / self.recursions)
                    losses.append(self._learn(router, logit_BT, capacity, going_BT, doc_start_BT, counted_BT))
                going_BT = both(going_BT, router.reaches(logit_BT) | (adaptive == 0))
            gain_BT1 = EXPERT_CHOICE_SCALE * logit_BT.sigmoid()[:, :, None]
            out_BTD = self.run(block, h_BTD, r, going_BT)
            stepped_BTD = out_BTD + adaptive * (h_BTD + gain_BT1 * out_BTD - out_BTD)
            if going_BT is not None:
                stepped_BTD = torch.where(going_BT[:, :, None], stepped_BTD, h_BTD)
            h_BTD = stepped_BTD.to(x_BTD.dtype)
            depth_BT = depth_BT + (1.0 if going_BT is None else going_BT.float())
        self.latest = {"depth": depth_BT}
        return h_BTD, {"mor_choice": EXPERT_CHOICE_LOSS * adaptive * torch.stack(losses).mean()} if losses else {}

    @staticmethod
    def _learn(
        router: CapacityRouter,
        logit_BT: Tensor,
        capacity: Tensor,
        going_BT: Tensor | None,
        doc_start_BT: Tensor | None,
        counted_BT: Tensor,
    ) -> Tensor:
        """Membership among the tokens that came this far; `capacity` is a share of all."""
        if going_BT is None:
            candidates_BT, left = counted_BT, capacity
        else:
            candidates_BT = counted_BT & going_BT
            left = (capacity * counted_BT.sum() / candidates_BT.sum().clamp(min=1)).clamp(max=1.0)
        router.measure(logit_BT, left, candidates_BT)
        score_BT = logit_BT if going_BT is None else logit_BT.masked_fill(~going_BT, -math.inf)
        return membership_loss(logit_BT, best_of_documents(score_BT, doc_start_BT, capacity), candidates_BT)


class TokenChoiceRecursions(Recursions):
    """Every token picks its depth before it starts."""

    def __init__(self, d_model: int, recursions: int):
        super().__init__(d_model, recursions)
        self.router = DepthRouter(d_model, recursions, bias=False)

    def expected_share(self, r: int) -> float:
        return 1.0 - r / self.recursions

    def forward(
        self,
        x_BTD: Tensor,
        block: Recursion,
        adaptive: Tensor,
        active_BT: Tensor | None,
        doc_start_BT: Tensor | None,
        counted_BT: Tensor,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        logit_BTR = self.router(x_BTD)
        p_BTR = logit_BTR.softmax(-1)
        picked_BT = p_BTR.argmax(-1)
        at_least = torch.ceil((1.0 - adaptive) * (self.recursions - 1) - 1e-6).long()
        last_BT = picked_BT.clamp(min=at_least)
        h_BTD = x_BTD
        for r in range(self.recursions):
            h_BTD = self.run(block, h_BTD, r, both(active_BT, last_BT >= r))
        p_BT1 = p_BTR.gather(-1, last_BT[:, :, None])
        y_BTD = h_BTD + adaptive * (p_BT1 * h_BTD + x_BTD - h_BTD)
        self.latest = {"depth": (last_BT + 1).float()}
        losses = {
            "mor_balance": BALANCE_LOSS * balance_loss(p_BTR, picked_BT[:, :, None], counted_BT),
            "mor_z": Z_LOSS * masked_mean(logit_BTR.logsumexp(-1).square(), counted_BT),
        }
        return y_BTD.to(x_BTD.dtype), losses


def both(first_BT: Tensor | None, second_BT: Tensor | None) -> Tensor | None:
    """Tokens marked in the one and the other; None marks all."""
    if first_BT is None or second_BT is None:
        return second_BT if first_BT is None else first_BT
    return first_BT & second_BT

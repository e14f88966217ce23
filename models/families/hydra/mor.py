"""Mixture of recursions: a block applied up to R times with the same weights, a router deciding how often.

A recursion r maps h to Block(h + embedding[r]). `adaptive` in [0, 1] leads from R recursions for every token to what
the router wants. Tokens outside `active` keep their stream; they still write keys and values.

    gaussian       mu = (R - 1) sigmoid(w x + b), p = normalised exp(-(r - mu)^2 / 2 variance), y = sum_r p_r h[r+1].
                   Each layer starts at its own depth, from 0.4 (first) to 0.8 (last) of R - 1;
                   ponder = sum_r (r+1) p_r. exit="hard" stops a token after its most probable recursion when
                   serving. HYDRA's.
    expert_choice  at recursion r the tokens still active compete for (R - r) / R of the places; those that reach the
                   calibrated threshold (in training too, so that no future decides) get h += g Block(h),
                   g = 0.1 sigmoid(w_r h), the others stop. Bae et al. 2025, with the threshold of `ThresholdRouter`.
    token_choice   p = softmax(W x) over depths at the start, the best one is taken: y = p_depth h[depth] + x; balanced
                   by a Switch loss and a z-loss. Bae et al. 2025.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from athanor.models.families.hydra.routing import (
    LinearRouter,
    Routing,
    Sample,
    ThresholdRouter,
    balance_loss,
    membership,
    row_means,
)

Recursion = Callable[[Tensor, int, Tensor | None], Tensor]  # h_BTD, r, active_BT -> Block(h) where active

EXPERT_CHOICE_SCALE = 0.1
EXPERT_CHOICE_LOSS = 0.001
BALANCE_LOSS = 0.1
Z_LOSS = 1e-5


class Depths(NamedTuple):
    """How deep a pass went, without gradient."""

    depth_BT: Tensor  # recursions of each token, mean ones where depths are mixed
    samples: tuple[Sample, ...] = ()  # in training: for `thresholds`, in their order


class Recursions(nn.Module):
    """What the three kinds share. Each is called with the stream, the block, what the routers are told and the active
    tokens (none: all), and gives the new stream, auxiliary losses of each row, `[B]`, and depths."""

    def __init__(self, d_model: int, recursions: int):
        super().__init__()
        self.recursions = recursions
        self.embedding = nn.Embedding(recursions, d_model)

    @property
    def mixes_all(self) -> bool:
        """Whether serving runs every recursion for every token, the depths being weights of their outputs."""
        return False

    @property
    def thresholds(self) -> list[ThresholdRouter]:
        """The routers whose thresholds are calibrated."""
        return []

    def expected_share(self, r: int) -> float:
        """Share of the tokens computed in recursion r when serving, as far as the design fixes it."""
        return 1.0 - r / self.recursions

    def run(self, block: Recursion, h_BTD: Tensor, r: int, active_BT: Tensor | None) -> Tensor:
        """Block(h + embedding[r]) for active tokens, h for the others."""
        out_BTD = block(h_BTD + self.embedding.weight[r], r, active_BT)
        return out_BTD if active_BT is None else torch.where(active_BT[:, :, None], out_BTD, h_BTD)


class GaussianRecursions(Recursions):
    """Depth outputs mixed by a bell around the wanted depth."""

    def __init__(self, d_model: int, recursions: int, start: float, variance: float, hard_exit: bool):
        super().__init__(d_model, recursions)
        self.start, self.variance, self.hard_exit = start, variance, hard_exit
        self.router = LinearRouter(d_model, start=start)

    @property
    def mixes_all(self) -> bool:
        return not self.hard_exit

    def expected_share(self, r: int) -> float:
        return min(1.0, max(0.0, self.start * (self.recursions - 1) - r + 1.0)) if self.hard_exit else 1.0

    def forward(
        self, x_BTD: Tensor, block: Recursion, routing: Routing, active_BT: Tensor | None
    ) -> tuple[Tensor, dict[str, Tensor], Depths]:
        depth_R, adaptive = torch.arange(self.recursions, device=x_BTD.device), routing.mor_adaptive
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
        ponder_B = row_means((wanted_BTR * (depth_R + 1)).sum(-1), routing.counted_BT)
        depths = Depths((share_BTR.detach() * (depth_R + 1)).sum(-1))
        return y_BTD.to(x_BTD.dtype), {"ponder": adaptive * ponder_B}, depths


class ExpertChoiceRecursions(Recursions):
    """Ever fewer tokens go on. The routers' noise is numbered from `first_stream`."""

    def __init__(self, d_model: int, recursions: int, jitter: float, first_stream: int):
        super().__init__(d_model, recursions)
        routers = (ThresholdRouter(d_model, jitter, first_stream + r) for r in range(recursions))
        self.router = cast("Sequence[ThresholdRouter]", nn.ModuleList(routers))

    @property
    def thresholds(self) -> list[ThresholdRouter]:
        """All but the first: the first recursion has room for all."""
        return list(self.router)[1:]

    def forward(
        self, x_BTD: Tensor, block: Recursion, routing: Routing, active_BT: Tensor | None
    ) -> tuple[Tensor, dict[str, Tensor], Depths]:
        h_BTD, going_BT, adaptive = x_BTD, active_BT, routing.mor_adaptive
        depth_BT = torch.zeros(x_BTD.shape[:2], device=x_BTD.device)
        lessons = []
        for r, router in enumerate(self.router):
            logit_BT = router(h_BTD).squeeze(-1)
            if r > 0:
                met_BT = router.scattered(logit_BT, routing.row_key_B)
                if self.training:
                    capacity = 1.0 - adaptive * (r / self.recursions)
                    lessons.append(membership(logit_BT, met_BT, capacity, routing, going_BT))
                going_BT = both(going_BT, router.reaches(met_BT) | (adaptive == 0))
            gain_BT1 = EXPERT_CHOICE_SCALE * logit_BT.sigmoid()[:, :, None]
            out_BTD = self.run(block, h_BTD, r, going_BT)
            stepped_BTD = out_BTD + adaptive * (h_BTD + gain_BT1 * out_BTD - out_BTD)
            if going_BT is not None:
                stepped_BTD = torch.where(going_BT[:, :, None], stepped_BTD, h_BTD)
            h_BTD = stepped_BTD.to(x_BTD.dtype)
            depth_BT = depth_BT + (1.0 if going_BT is None else going_BT.float())
        if not lessons:
            return h_BTD, {}, Depths(depth_BT)
        losses, samples = zip(*lessons, strict=True)
        loss_B = EXPERT_CHOICE_LOSS * adaptive * torch.stack(losses).mean(0)
        return h_BTD, {"mor_choice": loss_B}, Depths(depth_BT, samples)


class TokenChoiceRecursions(Recursions):
    """Every token picks its depth before it starts."""

    def __init__(self, d_model: int, recursions: int):
        super().__init__(d_model, recursions)
        self.router = LinearRouter(d_model, recursions)

    def forward(
        self, x_BTD: Tensor, block: Recursion, routing: Routing, active_BT: Tensor | None
    ) -> tuple[Tensor, dict[str, Tensor], Depths]:
        adaptive, logit_BTR = routing.mor_adaptive, self.router(x_BTD)
        p_BTR = logit_BTR.softmax(-1)
        picked_BT = p_BTR.argmax(-1)
        at_least = torch.ceil((1.0 - adaptive) * (self.recursions - 1) - 1e-6).long()
        last_BT = picked_BT.clamp(min=at_least)
        h_BTD = x_BTD
        for r in range(self.recursions):
            h_BTD = self.run(block, h_BTD, r, both(active_BT, last_BT >= r))
        p_BT1 = p_BTR.gather(-1, last_BT[:, :, None])
        y_BTD = h_BTD + adaptive * (p_BT1 * h_BTD + x_BTD - h_BTD)
        losses = {
            "mor_balance": BALANCE_LOSS * balance_loss(p_BTR, picked_BT[:, :, None], routing.counted_BT),
            "mor_z": Z_LOSS * row_means(logit_BTR.logsumexp(-1).square(), routing.counted_BT),
        }
        return y_BTD.to(x_BTD.dtype), losses, Depths((last_BT + 1).float())


def both(first_BT: Tensor | None, second_BT: Tensor | None) -> Tensor | None:
    """Tokens marked in the one and the other; None marks all."""
    if first_BT is None or second_BT is None:
        return second_BT if first_BT is None else first_BT
    return first_BT & second_BT

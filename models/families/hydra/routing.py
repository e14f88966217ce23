"""What the routers of HYDRA share: what they are told, how they score a token, and what they learn from.

A router scores every token by itself, in fp32. Some compare the score with a threshold. Choosing the best `capacity` of
a document (the published top-k) lets later tokens decide about earlier ones, so that choice is only a target: a binary
cross-entropy pulls the sigmoid of the score towards membership. The threshold replaces it in serving: in training every
step measures the score that `capacity` of its tokens reach, over all slices and ranks; the running mean of these is the
threshold, kept with the weights. A token then knows its fate from itself alone. In training noise on the logits keeps
equal tokens from passing or failing all at once.

A forward pass changes no router. What it shows of the thresholds it returns as `Sample`s, which the model gathers over
the micro-batches of a step and uses once, after it. A loss is one value for each row, see
models/families/hydra/model.py.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from athanor.kernels.kth_largest import kth_largest
from athanor.kernels.noise import truncated_normal

CALIBRATION_RATE = 0.1  # of the running mean, once 1 / steps is below it


@dataclass(frozen=True)
class Routing:
    """What all routers of one forward pass are told."""

    counted_BT: Tensor  # tokens of documents that teach something; padding does not
    doc_start_BT: Tensor | None
    row_key_B: Tensor | None  # of the noise on logits
    taught_BE: Tensor | None  # experts that each row's source is mapped to, while its tokens are taught them
    mod_open: Tensor  # 0: MoD does nothing .. 1: fully open
    mor_adaptive: Tensor  # 0: every token at full depth .. 1: as the routers want
    moe_dense: Tensor  # 1: every expert is computed
    skipping: float  # what MoD turns away: 0 weighed like the rest .. 1 skipped
    gather: bool  # whether tokens that do not go on are left out of the computation


class Sample(NamedTuple):
    """What one pass shows of a threshold: `capacity`, the same in all passes of a step, of the tokens that count shall
    reach it, or all that compete where those are fewer."""

    logit_N: Tensor  # of the tokens that compete, -inf for the others
    counted: Tensor
    capacity: Tensor | float


class LinearRouter(nn.Module):
    """W x, or W x + b, in fp32."""

    def __init__(self, d_model: int, outputs: int = 1, start: float | None = None):
        """`start`: the sigmoid that a new router gives every token, by its bias; None leaves the bias out."""
        super().__init__()
        self.start = start
        self.weight = nn.Parameter(torch.zeros(outputs, d_model))
        self.bias = None if start is None else nn.Parameter(torch.zeros(outputs))

    def forward(self, x_BTD: Tensor) -> Tensor:
        """Logits `[B, T, outputs]`."""
        with torch.autocast(x_BTD.device.type, enabled=False):
            return F.linear(x_BTD.float(), self.weight.float(), None if self.bias is None else self.bias.float())

    def reset(self) -> None:
        """What a new router has that is neither 0 nor drawn."""
        if self.bias is not None and self.start is not None:
            self.bias.fill_(math.log(self.start / (1.0 - self.start)))


class ThresholdRouter(LinearRouter):
    """One logit a token, and the threshold that a share of the tokens reaches."""

    threshold: Tensor
    calibrations: Tensor

    def __init__(self, d_model: int, jitter: float, stream: int, start: float | None = None):
        super().__init__(d_model, 1, start)
        self.jitter, self.stream = jitter, stream
        self.register_buffer("threshold", torch.zeros(()))
        self.register_buffer("calibrations", torch.zeros(()))

    def reset(self) -> None:
        """Tokens above a sigmoid of one half pass."""
        super().reset()
        self.threshold.zero_()
        self.calibrations.zero_()

    def scattered(self, logit_BT: Tensor, row_key_B: Tensor | None) -> Tensor:
        """The logits that meet the threshold: in training with noise, a function of step, row and place alone.

        Occurrences of a token that no layer has told apart yet have one logit, a sixth of a batch perhaps. Where the
        share is reached among them, a rounding would decide about all of them at once, and the layers have seen them
        on one side alone. With noise the share is met within them, and they are seen computed and skipped.
        """
        if not self.training or row_key_B is None or self.jitter == 0:
            return logit_BT
        return logit_BT + self.jitter * truncated_normal(row_key_B, self.stream, logit_BT.shape[1])

    def reaches(self, logit_BT: Tensor) -> Tensor:
        """Which tokens pass, each decided by itself."""
        return logit_BT >= self.threshold

    @torch.no_grad()
    def follow(self, reached: Tensor) -> None:
        """Move the threshold towards the logit that the wanted tokens of a step reach."""
        self.threshold.lerp_(reached.to(self.threshold), (1.0 / (self.calibrations + 1.0)).clamp(min=CALIBRATION_RATE))
        self.calibrations.add_(1)


@torch.no_grad()
def calibrate(
    routers: Sequence[ThresholdRouter], samples: Sequence[Sequence[Sample]], total: Callable[[Tensor], Tensor]
) -> None:
    """Move every threshold by what the passes of a step showed of it; `total` sums a tensor over the ranks. Routers for
    which no token competed stay as they are."""
    if not any(samples):
        return
    logit_RN = torch.stack([torch.cat([sample.logit_N for sample in of_router]) for of_router in samples])
    counted_R = torch.stack([torch.stack([sample.counted for sample in of_router]).sum() for of_router in samples])
    counted_R, competing_R = total(torch.stack((counted_R, (logit_RN > -math.inf).sum(1))))
    capacity_R = torch.stack([torch.as_tensor(of_router[0].capacity).to(logit_RN) for of_router in samples])
    wanted_R = torch.ceil(capacity_R * counted_R).long().clamp(min=1).minimum(competing_R)
    reached_R = kth_largest(logit_RN, wanted_R, total)
    for router, competing, reached in zip(routers, competing_R.tolist(), reached_R, strict=True):
        if competing:
            router.follow(reached)


def membership(
    logit_BT: Tensor,
    met_BT: Tensor,
    capacity: Tensor | float,
    routing: Routing,
    going_BT: Tensor | None = None,
) -> tuple[Tensor, Sample]:
    """Binary cross-entropy of sigmoid(logit) to being among the best `capacity` of a document, mean over the counted
    tokens of each row, `[B]`, and the sample for the threshold, of the logits `met_BT` that meet it. With `going_BT`
    only tokens that came this far compete and are averaged; `capacity` remains a share of all."""
    candidates_BT, score_BT = routing.counted_BT, logit_BT
    if going_BT is not None:
        candidates_BT = routing.counted_BT & going_BT
        score_BT = logit_BT.masked_fill(~going_BT, -math.inf)
    member_BT = best_of_documents(score_BT, routing.doc_start_BT, capacity)
    loss_BT = F.binary_cross_entropy_with_logits(logit_BT, member_BT.float(), reduction="none")
    competing_N = met_BT.detach().masked_fill(~candidates_BT, -math.inf).flatten()
    return row_means(loss_BT, candidates_BT), Sample(competing_N, routing.counted_BT.sum(), capacity)


@torch.no_grad()
def best_of_documents(score_BT: Tensor, doc_start_BT: Tensor | None, capacity: Tensor | float) -> Tensor:
    """bool `[B, T]`: the ceil(capacity * length) highest scores of each document, earlier tokens first among equals."""
    columns_T = torch.arange(score_BT.shape[1], device=score_BT.device)
    if doc_start_BT is None:
        doc_start_BT = torch.zeros_like(columns_T).expand_as(score_BT)
    by_score_BT = score_BT.argsort(dim=1, descending=True, stable=True)
    # Documents lie one after the other, so sorting by document keeps each in its own columns.
    by_document_BT = doc_start_BT.gather(1, by_score_BT).argsort(dim=1, stable=True)
    order_BT = by_score_BT.gather(1, by_document_BT)
    rank_BT = torch.empty_like(order_BT).scatter(1, order_BT, columns_T - doc_start_BT)
    length_BT = torch.zeros_like(doc_start_BT).scatter_add(1, doc_start_BT, torch.ones_like(doc_start_BT))
    return rank_BT < torch.ceil(capacity * length_BT.gather(1, doc_start_BT))


def balance_loss(p_BTE: Tensor, chosen_BTk: Tensor, counted_BT: Tensor) -> Tensor:
    """E sum_e f_e P_e over the counted tokens of each row, `[B]`: f_e the share of the choices that fell on e, P_e its
    mean probability; 1 when even.

    The loss is Switch Transformer's (arXiv 2101.03961, eq. 4), which takes the two means over a micro-batch: of a
    product of means the value depends on how a batch is cut. Here they are those of a row, the sequence-wise balance of
    DeepSeek-V3 (arXiv 2412.19437, eq. 17-20), which nothing cuts. Not those of a document: of a packed row's short ones
    a single token would be asked to be even.
    """
    weight_BT1 = (counted_BT / counted_BT.sum(1, keepdim=True).clamp(min=1))[:, :, None]
    chosen_BTE = F.one_hot(chosen_BTk, p_BTE.shape[-1]).sum(2) / chosen_BTk.shape[-1]
    share_BE = (chosen_BTE * weight_BT1).sum(1)
    return p_BTE.shape[-1] * (share_BE * (p_BTE * weight_BT1).sum(1)).sum(1)


def row_means(x_BT: Tensor, counted_BT: Tensor) -> Tensor:
    """Mean over the counted tokens of each row, `[B]`; 0 if there are none."""
    return torch.where(counted_BT, x_BT, 0.0).sum(1) / counted_BT.sum(1).clamp(min=1)

"""What the routers of HYDRA share: what they are told, how they score a token, and what they learn from.

A router scores every token by itself, in fp32. Some compare the score with a threshold. Choosing the best `capacity` of
a document (the published top-k) lets later tokens decide about earlier ones, so that choice is only a target: a binary
cross-entropy pulls the sigmoid of the score towards membership. The threshold replaces it in serving: in training every
step measures the score that `capacity` of its tokens reach; the running mean of these is the threshold, kept with the
weights. A token then knows its fate from itself alone.

A forward pass changes no router. What it measured for the thresholds it returns as `Sample`s, which the model gathers
over the micro-batches of a step and uses once, after it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

CALIBRATION_RATE = 0.1  # of the running mean, once 1 / steps is below it


@dataclass(frozen=True)
class Routing:
    """What all routers of one forward pass are told."""

    counted_BT: Tensor  # tokens of documents that teach something; padding does not
    doc_start_BT: Tensor | None
    row_key_B: Tensor | None  # of the noise on the experts' logits
    taught_BE: Tensor | None  # experts that each row's source is mapped to, while its tokens are taught them
    mod_open: Tensor  # 0: MoD does nothing .. 1: fully open
    mor_adaptive: Tensor  # 0: every token at full depth .. 1: as the routers want
    moe_dense: Tensor  # 1: every expert is computed
    skipping: float  # what MoD turns away: 0 weighed like the rest .. 1 skipped
    gather: bool  # whether tokens that do not go on are left out of the computation


class Sample(NamedTuple):
    """The logits one pass gave to the tokens that count, -inf for the others, and how many of them shall pass."""

    logit_N: Tensor
    wanted: Tensor


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

    def __init__(self, d_model: int, start: float | None = None):
        super().__init__(d_model, 1, start)
        self.register_buffer("threshold", torch.zeros(()))
        self.register_buffer("calibrations", torch.zeros(()))

    def reset(self) -> None:
        """Tokens above a sigmoid of one half pass."""
        super().reset()
        self.threshold.zero_()
        self.calibrations.zero_()

    def reaches(self, logit_BT: Tensor) -> Tensor:
        """Which tokens pass, each decided by itself."""
        return logit_BT >= self.threshold

    @torch.no_grad()
    def measured(self, samples: Sequence[Sample]) -> Tensor:
        """Of all samples of a step together: the logit that the wanted number of tokens reach, times the tokens; and
        the tokens. fp32 `[2]`, zero for nothing."""
        if not samples:
            return torch.zeros_like(self.threshold).expand(2)
        ordered_N = torch.cat([sample.logit_N for sample in samples]).sort(descending=True).values
        last = (torch.ceil(torch.stack([sample.wanted for sample in samples]).sum()).long() - 1).clamp(min=0)
        tokens = (ordered_N > -math.inf).sum()
        return torch.stack((torch.where(tokens > 0, ordered_N[last], 0.0) * tokens, tokens)).to(self.threshold)

    @torch.no_grad()
    def calibrate(self, measured: Tensor) -> None:
        """Move the threshold to what one step measured, see `measured`."""
        total, tokens = measured.unbind()
        rate = torch.where(tokens > 0, (1.0 / (self.calibrations + 1.0)).clamp(min=CALIBRATION_RATE), 0.0)
        self.threshold.lerp_(total / tokens.clamp(min=1), rate)
        self.calibrations.add_(tokens > 0)


def membership(
    logit_BT: Tensor, capacity: Tensor | float, routing: Routing, going_BT: Tensor | None = None
) -> tuple[Tensor, Sample]:
    """Binary cross-entropy of sigmoid(logit) to being among the best `capacity` of a document, mean over the counted
    tokens, and the sample for the threshold. With `going_BT` only tokens that came this far compete and count;
    `capacity` remains a share of all."""
    candidates_BT, score_BT, wanted = routing.counted_BT, logit_BT, capacity * routing.counted_BT.sum()
    if going_BT is not None:
        candidates_BT = routing.counted_BT & going_BT
        score_BT = logit_BT.masked_fill(~going_BT, -math.inf)
        share = (wanted / candidates_BT.sum().clamp(min=1)).clamp(max=1.0)
        wanted = share * candidates_BT.sum()
    member_BT = best_of_documents(score_BT, routing.doc_start_BT, capacity)
    loss_BT = F.binary_cross_entropy_with_logits(logit_BT, member_BT.float(), reduction="none")
    sample = Sample(logit_BT.detach().masked_fill(~candidates_BT, -math.inf).flatten(), wanted)
    return masked_mean(loss_BT, candidates_BT), sample


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
    """E sum_e f_e P_e over the counted tokens: f_e the share of the choices that fell on e, P_e its mean probability;
    1 when even. Source: Switch Transformer."""
    weight_BT1 = (counted_BT / counted_BT.sum().clamp(min=1))[:, :, None]
    chosen_BTE = F.one_hot(chosen_BTk, p_BTE.shape[-1]).sum(2) / chosen_BTk.shape[-1]
    share_E = (chosen_BTE * weight_BT1).sum((0, 1))
    return p_BTE.shape[-1] * (share_E * (p_BTE * weight_BT1).sum((0, 1))).sum()


def masked_mean(x_BT: Tensor, counted_BT: Tensor) -> Tensor:
    """Mean over the counted tokens; 0 if there are none."""
    return torch.where(counted_BT, x_BT, 0.0).sum() / counted_BT.sum().clamp(min=1)

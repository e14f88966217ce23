"""Mixture of depths: a router decides token by token whether a block is worth computing.

    r = sigmoid(w x + b)
    training   y = r f(x) + (1 - r) x            every token, so r learns from the cross-entropy
    serving    y = that for tokens whose logit reaches the threshold, y = x for the others

Choosing the best `capacity` of a document (the published top-k) lets later tokens decide about earlier ones. Here
that choice is only a target: a binary cross-entropy pulls r towards membership. The threshold replaces it in serving:
in training every step measures the logit that `capacity` of its tokens reach; the running mean of these is the
threshold, kept with the weights. A token then knows its fate from itself alone.
Sources: Raposo et al. 2024 (arXiv 2404.02258); HYDRA.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

CALIBRATION_RATE = 0.1  # of the running mean, once 1 / steps is below it


class CapacityRouter(nn.Module):
    """w x + b, fp32, and the threshold that a share of the tokens reaches."""

    threshold: Tensor
    calibrations: Tensor

    def __init__(self, d_model: int, start: float | None):
        """`start`: the probability a new router gives every token; None leaves out the bias."""
        super().__init__()
        self.start = start
        self.weight = nn.Parameter(torch.zeros(1, d_model))
        self.bias = None if start is None else nn.Parameter(torch.zeros(1))
        self.register_buffer("threshold", torch.zeros(()))
        self.register_buffer("calibrations", torch.zeros(()))
        self._measured: list[tuple[Tensor, Tensor]] = []

    def forward(self, x_BTD: Tensor) -> Tensor:
        """Logits `[B, T]`."""
        with torch.autocast(x_BTD.device.type, enabled=False):
            bias = None if self.bias is None else self.bias.float()
            return F.linear(x_BTD.float(), self.weight.float(), bias).squeeze(-1)

    def reset(self) -> None:
        """Bias and threshold of a new model: all tokens alike, those above one half pass."""
        if self.bias is not None and self.start is not None:
            self.bias.fill_(math.log(self.start / (1.0 - self.start)))
        self.threshold.zero_()
        self.calibrations.zero_()
        self.forget()

    def forget(self) -> None:
        """Drop what was noted for `calibrate`: it was of a pass that is not learned from."""
        self._measured = []

    def reaches(self, logit_BT: Tensor) -> Tensor:
        """Which tokens pass, each decided by itself."""
        return logit_BT >= self.threshold

    @torch.no_grad()
    def measure(self, logit_BT: Tensor, capacity: Tensor | float, counted_BT: Tensor) -> None:
        """Note for `calibrate` the logits of the counted tokens, of which `capacity` shall pass."""
        self._measured.append((logit_BT.masked_fill(~counted_BT, -math.inf).flatten(), capacity * counted_BT.sum()))

    @torch.no_grad()
    def measured(self) -> Tensor:
        """Of all that was noted since the last call: the logit that the wanted number of tokens reach, times the
        tokens; and the tokens. fp32 `[2]`, zero for nothing."""
        noted, self._measured = self._measured, []
        if not noted:
            return torch.zeros_like(self.threshold).expand(2)
        ordered_N = torch.cat([logit_N for logit_N, _ in noted]).sort(descending=True).values
        wanted = torch.stack([torch.as_tensor(count) for _, count in noted]).sum()
        last = (torch.ceil(wanted).long() - 1).clamp(min=0)
        tokens = (ordered_N > -math.inf).sum()
        return torch.stack((torch.where(tokens > 0, ordered_N[last], 0.0) * tokens, tokens)).to(self.threshold)

    @torch.no_grad()
    def calibrate(self, measured: Tensor) -> None:
        """Move the threshold to what one step measured, see `measured`."""
        total, tokens = measured.unbind()
        rate = torch.where(tokens > 0, (1.0 / (self.calibrations + 1.0)).clamp(min=CALIBRATION_RATE), 0.0)
        self.threshold.lerp_(total / tokens.clamp(min=1), rate)
        self.calibrations.add_(tokens > 0)


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


def membership_loss(logit_BT: Tensor, member_BT: Tensor, counted_BT: Tensor) -> Tensor:
    """Binary cross-entropy of sigmoid(logit) to membership, mean over the counted tokens."""
    loss_BT = F.binary_cross_entropy_with_logits(logit_BT, member_BT.float(), reduction="none")
    return masked_mean(loss_BT, counted_BT)


def masked_mean(x_BT: Tensor, counted_BT: Tensor) -> Tensor:
    """Mean over the counted tokens; 0 if there are none."""
    return torch.where(counted_BT, x_BT, 0.0).sum() / counted_BT.sum().clamp(min=1)


class MixtureOfDepths(nn.Module):
    """The gate around one block."""

    def __init__(self, d_model: int, capacity: float):
        super().__init__()
        self.capacity = capacity
        self.router = CapacityRouter(d_model, start=capacity)
        self.latest: dict[str, Tensor] = {}  # of the newest forward pass, for diagnostics and maps

    def choose(self, x_BTD: Tensor, doc_start_BT: Tensor | None, whole_document: bool) -> tuple[Tensor, Tensor]:
        """Logits `[B, T]` and which tokens the block is computed for when serving. `whole_document` takes the best
        of each document, later tokens included."""
        logit_BT = self.router(x_BTD)
        if whole_document:
            chosen_BT = best_of_documents(logit_BT, doc_start_BT, self.capacity)
        else:
            chosen_BT = self.router.reaches(logit_BT)
        self.latest = {"logit": logit_BT.detach(), "chosen": chosen_BT}
        return logit_BT, chosen_BT

    def learn(self, logit_BT: Tensor, doc_start_BT: Tensor | None, counted_BT: Tensor) -> Tensor:
        """The auxiliary loss, unweighted; measures the threshold."""
        self.router.measure(logit_BT, self.capacity, counted_BT)
        member_BT = best_of_documents(logit_BT, doc_start_BT, self.capacity)
        return membership_loss(logit_BT, member_BT, counted_BT)

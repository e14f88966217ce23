"""PolyGLU feed-forward layer: every neuron mixes four activations, routed by a learned preference and the context.

    c     = expand(relu(reduce(pool(x))))            context, K channels
    logit = (alpha[f, k] + beta[k] c[k] + noise) / tau
    y     = down((sum_k softmax_k(logit) s_k(gate x)) * up x)

`pool` is the mean of the layer's input over the document so far (causal), or over the whole row
(sequence, as published). Pooling is linear, so it acts on the gate_width channels after `reduce` and not
on the d_model channels before it: same numbers, a cache of gate_width values, and no second [B, T, D]
tensor. Everything after `reduce` runs in fp32 at least, because tau = 0.1 would magnify bf16 rounding tenfold.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from athanor.kernels.polyglu import ACTIVATIONS, polyglu
from athanor.kernels.precision import at_least_fp32
from athanor.models.blocks.causal_mean import RunningSum, causal_mean
from athanor.models.families.polychromatic.recipe import PolychromaticRecipe
from athanor.models.skeleton import Context


def entropy(logits: Tensor) -> Tensor:
    """Entropy in nats of softmax over the last axis."""
    log_p = logits.log_softmax(-1)
    return -(log_p.exp() * log_p).sum(-1)


class Usage(NamedTuple):
    """How a layer's neurons choose in a training pass, noise off, without gradient; entropies in nats. Found in the
    forward pass, where engines that shard weights have alpha whole."""

    alpha_square: Tensor  # mean of the squares
    static_entropy: Tensor  # of softmax(alpha), mean over the neurons
    dynamic_entropy_BT: Tensor  # of softmax(beta c / tau); one a row with pool="sequence"
    actual_entropy_B: Tensor  # of softmax((alpha + beta c) / tau) on a row's last counted token, mean over the neurons
    share_BK: Tensor  # of each activation there, mean over the neurons


@torch.no_grad()
def usage(alpha_FK: Tensor, dynamic_BTK: Tensor, tau: Tensor, counted_BT: Tensor) -> Usage:
    """See `Usage`; of a row without a counted token any."""
    last_BK = dynamic_BTK[:, 0]
    if dynamic_BTK.shape[1] > 1:
        last_B11 = (counted_BT * torch.arange(counted_BT.shape[1], device=counted_BT.device)).argmax(1)[:, None, None]
        last_BK = dynamic_BTK.gather(1, last_B11.expand(-1, 1, dynamic_BTK.shape[2])).squeeze(1)
    logits_BFK = (alpha_FK + last_BK[:, None]) / tau
    return Usage(
        alpha_FK.square().mean(),
        entropy(alpha_FK).mean(),
        entropy(dynamic_BTK / tau),
        entropy(logits_BFK).mean(1),
        logits_BFK.softmax(-1).mean(1),
    )


class Router(nn.Module):
    """What decides which activation a neuron uses: static preferences alpha, scales beta, and the context."""

    def __init__(self, d_model: int, d_ff: int, recipe: PolychromaticRecipe):
        super().__init__()
        self.alpha = nn.Parameter(torch.zeros(d_ff, len(ACTIVATIONS)))
        self.beta = nn.Parameter(torch.ones(len(ACTIVATIONS)))
        self.reduce = nn.Linear(d_model, recipe.gate_width)
        self.expand = nn.Linear(recipe.gate_width, len(ACTIVATIONS))
        self.pool = recipe.pool

    def dynamic(self, x_BTD: Tensor, context: Context, past: RunningSum | None) -> Tensor:
        """beta * c, fp32 (fp64 of fp64) `[B, T, K]`, or `[B, 1, K]` with pool="sequence"."""
        reduced_BTR = F.linear(x_BTD, self.reduce.weight)
        with torch.autocast(x_BTD.device.type, enabled=False):
            if self.pool == "sequence":
                pooled = at_least_fp32(reduced_BTR).mean(1, keepdim=True)
            else:
                pooled = causal_mean(reduced_BTR, context, past)
            narrow = F.relu(pooled + self.reduce.bias)
            return self.beta * F.linear(narrow, at_least_fp32(self.expand.weight), at_least_fp32(self.expand.bias))


class PolyGLU(nn.Module):
    """The feed-forward layer; `noise_BFK` is standard Gumbel noise or None."""

    def __init__(self, d_model: int, d_ff: int, recipe: PolychromaticRecipe):
        super().__init__()
        self.gate = nn.Linear(d_model, d_ff, bias=False)
        self.up = nn.Linear(d_model, d_ff, bias=False)
        self.down = nn.Linear(d_ff, d_model, bias=False)
        self.router = Router(d_model, d_ff, recipe)

    def forward(
        self,
        x_BTD: Tensor,
        tau: Tensor,
        context: Context,
        noise_BFK: Tensor | None = None,
        past: RunningSum | None = None,
    ) -> tuple[Tensor, Usage | None]:
        """What the layer adds to the stream; in training, how its neurons chose."""
        dynamic_BTK = self.router.dynamic(x_BTD, context, past)
        alpha_FK = at_least_fp32(self.router.alpha)
        static_BFK = alpha_FK[None]
        if noise_BFK is not None:
            static_BFK = static_BFK + noise_BFK
        mixed_BTF = polyglu(self.gate(x_BTD), self.up(x_BTD), static_BFK / tau, dynamic_BTK / tau)
        counted_BT = context.tallied_BT
        chosen = None if counted_BT is None else usage(alpha_FK, dynamic_BTK, tau, counted_BT)
        return self.down(mixed_BTF), chosen

    def flops_per_token(self) -> float:
        """Forward matrix-product FLOPs of a token."""
        layers = (self.gate, self.up, self.down, self.router.reduce, self.router.expand)
        return 2.0 * sum(layer.weight.numel() for layer in layers)

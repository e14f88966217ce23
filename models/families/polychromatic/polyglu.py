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

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from athanor.kernels.polyglu import ACTIVATIONS, polyglu
from athanor.kernels.precision import at_least_fp32
from athanor.models.blocks.causal_mean import RunningSum, causal_mean
from athanor.models.families.polychromatic.recipe import PolychromaticRecipe
from athanor.models.skeleton import Context


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
        # beta * c of the newest forward pass and alpha [F, K] as it was there, where engines that shard have it whole:
        # for diagnostics.
        self.latest_dynamic: Tensor | None = None
        self.latest_alpha: Tensor | None = None

    def forward(
        self,
        x_BTD: Tensor,
        tau: Tensor,
        context: Context,
        noise_BFK: Tensor | None = None,
        past: RunningSum | None = None,
    ) -> Tensor:
        dynamic_BTK = self.router.dynamic(x_BTD, context, past)
        self.latest_dynamic = dynamic_BTK.detach()
        alpha_FK = at_least_fp32(self.router.alpha)
        self.latest_alpha = alpha_FK.detach().clone()
        static_BFK = alpha_FK[None]
        if noise_BFK is not None:
            static_BFK = static_BFK + noise_BFK
        mixed_BTF = polyglu(self.gate(x_BTD), self.up(x_BTD), static_BFK / tau, dynamic_BTK / tau)
        return self.down(mixed_BTF)

    def flops_per_token(self) -> float:
        """Forward matrix-product FLOPs of a token."""
        layers = (self.gate, self.up, self.down, self.router.reduce, self.router.expand)
        return 2.0 * sum(layer.weight.numel() for layer in layers)

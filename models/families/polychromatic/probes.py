"""Which activations PolyGLU neurons use on real text: shares and entropies, noise off.

Three entropies, in nats, ln 4 = 1.386 being an even choice:
    static   softmax_k(alpha)                 what the neurons prefer without context
    dynamic  softmax_k(beta c / tau)          what the context alone would choose
    actual   softmax_k((alpha + beta c) / tau)  what the layer does
The static one alone says nothing about usage: it can stay at ln 4 while every token picks one activation.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from athanor.kernels.polyglu import ACTIVATIONS
from athanor.models.families.polychromatic.polyglu import PolyGLU, entropy
from athanor.models.maps import Map, unused

_NEURONS_SHOWN = 128
_CHUNK_ELEMENTS = 2**24


class RoutingProbe:
    """Accumulates, per layer, the mean share of each activation in each neuron and the three entropies."""

    def __init__(self, layers: Sequence[PolyGLU], tau: float):
        self._layers = layers
        self._tau = tau
        self._tokens = [0] * len(layers)
        self._share_LFK = [torch.zeros(*layer.router.alpha.shape, dtype=torch.float64) for layer in layers]
        self._dynamic_L = [0.0] * len(layers)
        self._actual_L = [0.0] * len(layers)

    def attach(self) -> list[RemovableHandle]:
        return [layer.register_forward_hook(partial(self._see, i)) for i, layer in enumerate(self._layers)]

    def _see(self, i: int, _layer: nn.Module, args: tuple[Any, ...], _out: Any) -> None:
        x_BTD, _, context = args[:3]
        router = self._layers[i].router
        alpha_FK, dynamic_BTK = router.alpha.float(), router.dynamic(x_BTD, context, None)
        rows, length = x_BTD.shape[:2]
        dynamic_NK = dynamic_BTK.expand(rows, length, -1).flatten(0, 1)
        self._tokens[i] += len(dynamic_NK)
        self._dynamic_L[i] += float(entropy(dynamic_NK / self._tau).double().sum())
        for some_NK in dynamic_NK.split(max(1, _CHUNK_ELEMENTS // alpha_FK.numel())):
            logits_NFK = (alpha_FK + some_NK[:, None]) / self._tau
            self._share_LFK[i] += logits_NFK.softmax(-1).sum(0).double().cpu()
            self._actual_L[i] += float(entropy(logits_NFK).mean(1).double().sum())

    def maps(self) -> list[Map]:
        tokens = max(1, self._tokens[0])
        measured = f"Mean over {tokens:,} tokens of held-out text, noise off, tau = {self._tau:.3g}."
        shares_LFK = [share / tokens for share in self._share_LFK]
        return [self._entropies(tokens, measured), self._layer_shares(shares_LFK, measured)] + [
            self._neuron_shares(shares_LFK, k, measured) for k in range(len(ACTIVATIONS))
        ]

    def _entropies(self, tokens: int, measured: str) -> Map:
        static = [float(entropy(layer.router.alpha.detach().float()).mean()) for layer in self._layers]
        return Map(
            name="routing_entropy",
            title="Routing entropy: preference, context, and what is used",
            kind="lines",
            values=[
                static,
                [total / tokens for total in self._dynamic_L],
                [total / tokens for total in self._actual_L],
                [math.log(len(ACTIVATIONS))] * len(self._layers),
            ],
            x_label="layer",
            y_label="entropy",
            series=["static softmax(α)", "dynamic softmax(βc/τ)", "actual softmax((α+βc)/τ)", "ln K (even)"],
            unit="nats",
            note=f"{measured} The static entropy alone is no evidence of use.",
        )

    def _layer_shares(self, shares_LFK: list[Tensor], measured: str) -> Map:
        return Map(
            name="neurotransmitters",
            title="Neurotransmitter map: share of each activation by layer",
            kind="heatmap",
            values=[share_FK.mean(0).tolist() for share_FK in shares_LFK],
            x_label="activation",
            y_label="layer",
            x_ticks=list(ACTIVATIONS),
            unit="share",
            note=measured + unused([share_FK.mean(0).tolist() for share_FK in shares_LFK], ACTIVATIONS),
        )

    def _neuron_shares(self, shares_LFK: list[Tensor], k: int, measured: str) -> Map:
        name = ACTIVATIONS[k]
        return Map(
            name=f"neurons_{name}",
            title=f"Share of {name} in each neuron",
            kind="heatmap",
            values=[_quantiles(share_FK[:, k]) for share_FK in shares_LFK],
            x_label=f"neurons, most {name} first",
            y_label="layer",
            unit="share",
            note=f"{measured} Each layer's neurons are sorted by this share; at most {_NEURONS_SHOWN} are shown, "
            "evenly spaced with both ends.",
        )


def _quantiles(share_F: Tensor) -> list[float]:
    """The shares in falling order, thinned evenly to at most _NEURONS_SHOWN, first and last kept."""
    ordered = share_F.sort(descending=True).values
    picks = torch.linspace(0, len(ordered) - 1, min(len(ordered), _NEURONS_SHOWN)).round().long()
    return ordered[picks].tolist()

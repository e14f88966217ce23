"""HYDRA's block: layers inside a recursion inside a gate; and its expert layer.

    layer   h = h + CCGQA(norm h);  h = h + SwiGLU(norm h)
    block   y = MoD(x, MoR(x, its layers in turn))                    one layer, or the middle ones of `mor_sharing`
    expert  y = x + alpha MoE(norm x)

A block returns all that comes of its routing, and changes nothing but the caches it is given: run again, as when it is
recomputed in the backward pass, it does the same again.

mod_scope=mlp gates the feed-forward layer alone, and only in blocks between the first and the last:
        layer   h = h + CCGQA(norm h);  h = h + r SwiGLU(norm h)      r decided once, from x, for all recursions
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, cast

from torch import Tensor, nn

from athanor.models.blocks.norm import RMSNorm
from athanor.models.blocks.swiglu import SwiGLU
from athanor.models.families.hydra.ccgqa import CCGQA, CCGQAState, FirstKeys, Positions
from athanor.models.families.hydra.mod import Gate, MixtureOfDepths
from athanor.models.families.hydra.moe import Choices, MixtureOfExperts
from athanor.models.families.hydra.mor import (
    Depths,
    ExpertChoiceRecursions,
    GaussianRecursions,
    Recursions,
    TokenChoiceRecursions,
    both,
)
from athanor.models.families.hydra.recipe import HydraRecipe
from athanor.models.families.hydra.routing import Routing, Sample, ThresholdRouter
from athanor.models.families.hydra.token_subset import TokenSubset
from athanor.models.model_recipe import ModelRecipe

THRESHOLD_STREAMS = 1 << 16  # of noise: the gate of the first block; those of expert layers are counted from 0


class Routed(NamedTuple):
    """What a block decided about its tokens, without gradient."""

    gate: Gate | None  # of MoD, if there is one
    depths: Depths | None  # of MoR, if there is one

    @property
    def computed_BT(self) -> Tensor | None:
        """Tokens for which what MoD gates was done; None: all."""
        return None if self.gate is None else self.gate.computed_BT

    @property
    def samples(self) -> tuple[Sample, ...]:
        """In training: for `HydraBlock.thresholds`, in their order."""
        return tuple(sample for part in self if part is not None for sample in part.samples)


class Layer(nn.Module):
    """CCGQA and SwiGLU, each behind a norm."""

    def __init__(self, recipe: ModelRecipe, section: HydraRecipe):
        super().__init__()
        self.attention_norm = RMSNorm(recipe.d_model, recipe.norm_eps, before_products=True)
        self.attention = CCGQA(recipe, section)
        self.ffn_norm = RMSNorm(recipe.d_model, recipe.norm_eps, before_products=True)
        self.ffn = SwiGLU(recipe.d_model, recipe.d_ff)

    def forward(
        self,
        h_BTD: Tensor,
        positions: Positions,
        past: CCGQAState | None = None,
        first: FirstKeys | None = None,
        attending: TokenSubset | None = None,
        fed: TokenSubset | None = None,
        weight_BT: Tensor | None = None,
    ) -> Tensor:
        """Attention for the tokens `attending`, then the feed-forward layer for those `fed`, times `weight_BT`; the
        others come back as they are."""
        mixed_BTD = self.attention(self.attention_norm(h_BTD), positions, past, attending, first)
        if fed is None:
            h_BTD, normed_BTD = self.ffn_norm(h_BTD, mixed_BTD)
            added_BTD = self.ffn(normed_BTD)
        else:
            h_BTD = h_BTD + mixed_BTD
            added_BTD = fed.spread(self.ffn(self.ffn_norm(fed.gather(h_BTD))))
        return h_BTD + (added_BTD if weight_BT is None else weight_BT[:, :, None].to(added_BTD.dtype) * added_BTD)


class HydraBlock(nn.Module):
    """Layers inside their recursion and their gate; R = 1 and capacity 1 leave those out. `place` counts from 0."""

    def __init__(self, recipe: ModelRecipe, section: HydraRecipe, layers: int, place: int, blocks: int):
        super().__init__()
        inner = 0 < place < blocks - 1
        self.layers = cast("Sequence[Layer]", nn.ModuleList(Layer(recipe, section) for _ in range(layers)))
        self.gates_mlp = section.mod_scope == "mlp"
        gated = section.capacity < 1 and (inner or not self.gates_mlp)
        noise = THRESHOLD_STREAMS + place * (1 + section.recursions)
        self.mod = MixtureOfDepths(recipe.d_model, section, noise) if gated else None
        self.recursions = section.recursions if inner or section.mor_sharing == "sequence" else 1
        start = 0.4 + 0.4 * place / max(1, blocks - 1)
        self.mor = _recursions(recipe, section, start, noise + 1) if self.recursions > 1 else None
        self.first_keys_only = section.mor_kv == "first"

    @property
    def thresholds(self) -> list[ThresholdRouter]:
        """The routers whose thresholds are calibrated."""
        gate = [] if self.mod is None else [self.mod.router]
        return gate if self.mor is None else [*gate, *self.mor.thresholds]

    def makes_keys(self, r: int) -> bool:
        """Whether recursion r makes keys and values, or reads those of the first."""
        return r == 0 or not self.first_keys_only

    def new_states(self) -> list[list[CCGQAState]]:
        """One a layer, for each recursion."""
        return [[CCGQAState() for _ in self.layers] for _ in range(self.recursions)]

    def forward(
        self, x_BTD: Tensor, positions: Positions, routing: Routing, states: list[list[CCGQAState]] | None = None
    ) -> tuple[Tensor, dict[str, Tensor], Routed]:
        """The new stream; auxiliary losses of each row, `[B]`, by name, unweighted; what was decided. `states`: from
        `new_states`, while decoding."""
        gate, losses = (None, {}) if self.mod is None else self.mod(x_BTD, routing)
        of_block, of_mlp = (None, gate) if self.gates_mlp else (gate, None)
        active_BT = None if of_block is None else of_block.computed_BT
        y_BTD, more_losses, depths = self._recur(x_BTD, positions, routing, states, active_BT, of_mlp)
        if of_block is not None:
            y_BTD = x_BTD + of_block.weight_BT[:, :, None].to(x_BTD.dtype) * (y_BTD - x_BTD)
        return y_BTD, losses | more_losses, Routed(None if gate is None else gate.detached(), depths)

    def _recur(
        self,
        x_BTD: Tensor,
        positions: Positions,
        routing: Routing,
        states: list[list[CCGQAState]] | None,
        active_BT: Tensor | None,
        mlp_gate: Gate | None,
    ) -> tuple[Tensor, dict[str, Tensor], Depths | None]:
        """The layers, as often as each token's depth says: stream, losses, depths."""
        firsts = [FirstKeys() if self.first_keys_only else None for _ in self.layers]

        def subset_of(going_BT: Tensor | None) -> TokenSubset | None:
            return TokenSubset.of(going_BT) if going_BT is not None and routing.gather else None

        def once(h_BTD: Tensor, r: int, going_BT: Tensor | None) -> Tensor:
            attending = fed = subset_of(going_BT)
            weight_BT = None
            if mlp_gate is not None:
                fed, weight_BT = subset_of(both(going_BT, mlp_gate.computed_BT)), mlp_gate.weight_BT
            pasts = [None] * len(self.layers) if states is None else states[r]
            for layer, past, first in zip(self.layers, pasts, firsts, strict=True):
                h_BTD = layer(h_BTD, positions, past, first, attending, fed, weight_BT)
            return h_BTD

        if self.mor is None:
            return once(x_BTD, 0, active_BT), {}, None
        return self.mor(x_BTD, once, routing, active_BT)

    def flops_per_token(self, context_tokens: float, serving: bool) -> float:
        """Forward matrix-product FLOPs of a token that sees `context_tokens` keys; in serving the shares count that
        MoD lets through and MoR is meant to keep going."""
        routers = (weight for name, weight in self.named_parameters() if "router" in name.split("."))
        total = 2.0 * sum(weight.numel() for weight in routers if weight.ndim == 2)
        passing = self.mod.capacity if serving and self.mod is not None else 1.0
        for r in range(self.recursions):
            going = 1.0 if self.mor is None or not serving else self.mor.expected_share(r)
            attending = going if self.gates_mlp else going * passing
            for layer in self.layers:
                total += layer.attention.flops_per_token(context_tokens, attending, self.makes_keys(r))
                total += going * passing * layer.ffn.flops_per_token()
        return total

    def cache_values_per_token(self, context_tokens: int) -> float:
        """Values that the cache of a row of `context_tokens` holds, divided by them."""
        return sum(
            layer.attention.cache_values_per_token(context_tokens, self.makes_keys(r))
            for r in range(self.recursions)
            for layer in self.layers
        )


def _recursions(recipe: ModelRecipe, section: HydraRecipe, start: float, first_stream: int) -> Recursions:
    if section.mor == "expert_choice":
        return ExpertChoiceRecursions(recipe.d_model, section.recursions, section.threshold_jitter, first_stream)
    if section.mor == "token_choice":
        return TokenChoiceRecursions(recipe.d_model, section.recursions)
    hard = section.mor_exit == "hard"
    return GaussianRecursions(recipe.d_model, section.recursions, start, section.mor_variance, hard)


class ExpertLayer(nn.Module):
    """A mixture of experts on the normed stream."""

    def __init__(self, recipe: ModelRecipe, section: HydraRecipe):
        super().__init__()
        self.ffn_norm = RMSNorm(recipe.d_model, recipe.norm_eps)
        self.ffn = MixtureOfExperts(
            recipe.d_model,
            section.expert_d_ff or recipe.d_ff,
            section.experts,
            section.experts_per_token,
            section.router_jitter,
            section.routing == "static",
        )

    def forward(self, x_BTD: Tensor, routing: Routing, stream: int) -> tuple[Tensor, dict[str, Tensor], Choices]:
        """The new stream, auxiliary losses of each row, `[B]`, by name, unweighted, and the choices."""
        y_BTD, losses, choices = self.ffn(self.ffn_norm(x_BTD), routing, stream)
        return x_BTD + y_BTD, losses, choices

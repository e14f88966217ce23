"""HYDRA's block: layers inside a recursion inside a gate; and its expert layer.

    layer   h = h + CCGQA(norm h);  h = h + SwiGLU(norm h)
    block   y = MoD(x, MoR(x, its layers in turn))                    one layer, or the middle ones of `mor_sharing`
    expert  y = x + alpha MoE(norm x)

mod_scope=mlp gates the feed-forward layer alone, and only in blocks between the first and the last:
        layer   h = h + CCGQA(norm h);  h = h + r SwiGLU(norm h)      r decided once, from x, for all recursions
"""

from __future__ import annotations

from collections.abc import ItemsView, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from athanor.models.blocks.norm import RMSNorm
from athanor.models.blocks.swiglu import SwiGLU
from athanor.models.families.hydra.ccgqa import CCGQA, CCGQAState, FirstKeys, Positions
from athanor.models.families.hydra.mod import MixtureOfDepths
from athanor.models.families.hydra.moe import MixtureOfExperts
from athanor.models.families.hydra.mor import (
    ExpertChoiceRecursions,
    GaussianRecursions,
    Recursions,
    TokenChoiceRecursions,
    both,
)
from athanor.models.families.hydra.recipe import HydraRecipe
from athanor.models.families.hydra.token_subset import TokenSubset
from athanor.models.model_recipe import ModelRecipe
from athanor.models.skeleton import Context


class Losses:
    """Auxiliary losses by name, in the order the blocks add them. No plain container: wrappers of modules rebuild those
    that they find in arguments, and what a block adds to a copy is lost."""

    def __init__(self) -> None:
        self._found: dict[str, list[Tensor]] = {}

    def __getitem__(self, name: str) -> list[Tensor]:
        return self._found.setdefault(name, [])

    def items(self) -> ItemsView[str, list[Tensor]]:
        """(name, its losses)."""
        return self._found.items()


@dataclass
class Pass:
    """What the blocks of one forward pass share."""

    positions: Positions
    context: Context
    counted_BT: Tensor  # tokens of documents that teach something; padding does not
    mod_open: Tensor  # 0: MoD does nothing .. 1: fully open
    mor_adaptive: Tensor
    moe_dense: Tensor
    taught_BE: Tensor | None  # experts that each row's source is mapped to, while its tokens are taught them
    skipping: float  # what MoD turns away: 0 weighed like the rest .. 1 skipped
    gather: bool  # whether tokens that do not go on are left out of the computation
    losses: Losses

    def add(self, losses: dict[str, Tensor]) -> None:
        """Note one layer's auxiliary losses, unweighted."""
        for name, loss in losses.items():
            self.losses[name].append(loss)


@dataclass(frozen=True)
class Gate:
    """What MoD decided about the tokens of a block."""

    weight_BT: Tensor
    computed_BT: Tensor | None  # the others are skipped; None: nobody is


class Layer(nn.Module):
    """CCGQA and SwiGLU, each behind a norm."""

    def __init__(self, recipe: ModelRecipe, section: HydraRecipe):
        super().__init__()
        self.attention_norm = RMSNorm(recipe.d_model, recipe.norm_eps)
        self.attention = CCGQA(recipe, section)
        self.ffn_norm = RMSNorm(recipe.d_model, recipe.norm_eps)
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
        h_BTD = h_BTD + self.attention(self.attention_norm(h_BTD), positions, past, attending, first)
        if fed is None:
            added_BTD = self.ffn(self.ffn_norm(h_BTD))
        else:
            added_BTD = fed.spread(self.ffn(self.ffn_norm(fed.gather(h_BTD))))
        return h_BTD + (added_BTD if weight_BT is None else weight_BT[:, :, None].to(added_BTD.dtype) * added_BTD)


class Block(nn.Module):
    """Layers inside their recursion and their gate; R = 1 and capacity 1 leave those out. `place` counts from 0."""

    def __init__(self, recipe: ModelRecipe, section: HydraRecipe, layers: int, place: int, blocks: int):
        super().__init__()
        inner = 0 < place < blocks - 1
        self.layers = cast("Sequence[Layer]", nn.ModuleList(Layer(recipe, section) for _ in range(layers)))
        self.gates_mlp = section.mod_scope == "mlp"
        gated = section.capacity < 1 and (inner or not self.gates_mlp)
        self.mod = MixtureOfDepths(recipe.d_model, section.capacity) if gated else None
        self.recursions = section.recursions if inner or section.mor_sharing == "sequence" else 1
        start = 0.4 + 0.4 * place / max(1, blocks - 1)
        self.mor = _recursions(recipe, section, start) if self.recursions > 1 else None
        self.first_keys_only = section.mor_kv == "first"
        self.whole_document = section.mod_infer == "topk"
        self.latest_computed: Tensor | None = None  # tokens for which the newest pass did what MoD gates; None: all

    def makes_keys(self, r: int) -> bool:
        """Whether recursion r makes keys and values, or reads those of the first."""
        return r == 0 or not self.first_keys_only

    def new_states(self) -> list[list[CCGQAState]]:
        """One a layer, for each recursion."""
        return [[CCGQAState() for _ in self.layers] for _ in range(self.recursions)]

    def forward(self, x_BTD: Tensor, run: Pass, states: list[list[CCGQAState]] | None = None) -> Tensor:
        """`states`: from `new_states`, while decoding."""
        gate = None if self.mod is None else self._gate(self.mod, x_BTD, run)
        self.latest_computed = None if gate is None else gate.computed_BT
        if gate is None or self.gates_mlp:
            return self._recursions(x_BTD, run, states, None, gate)
        out_BTD = self._recursions(x_BTD, run, states, gate.computed_BT, None)
        return x_BTD + gate.weight_BT[:, :, None].to(x_BTD.dtype) * (out_BTD - x_BTD)

    def _gate(self, mod: MixtureOfDepths, x_BTD: Tensor, run: Pass) -> Gate:
        doc_start_BT = run.context.doc_start_BT
        logit_BT, chosen_BT = mod.choose(x_BTD, doc_start_BT, self.whole_document and not self.training)
        if self.training:
            run.add({"mod": run.mod_open * mod.learn(logit_BT, doc_start_BT, run.counted_BT)})
        weight_BT = 1.0 + run.mod_open * (logit_BT.sigmoid() - 1.0)
        if run.skipping == 0:
            return Gate(weight_BT, None)
        weight_BT = torch.where(chosen_BT, weight_BT, (1.0 - run.skipping) * weight_BT)
        return Gate(weight_BT, chosen_BT if run.skipping == 1 else None)

    def _recursions(
        self,
        x_BTD: Tensor,
        run: Pass,
        states: list[list[CCGQAState]] | None,
        active_BT: Tensor | None,
        mlp_gate: Gate | None,
    ) -> Tensor:
        firsts = [FirstKeys() if self.first_keys_only else None for _ in self.layers]

        def subset_of(going_BT: Tensor | None) -> TokenSubset | None:
            return TokenSubset.of(going_BT) if going_BT is not None and run.gather else None

        def once(h_BTD: Tensor, r: int, going_BT: Tensor | None) -> Tensor:
            attending = fed = subset_of(going_BT)
            weight_BT = None
            if mlp_gate is not None:
                fed, weight_BT = subset_of(both(going_BT, mlp_gate.computed_BT)), mlp_gate.weight_BT
            pasts = [None] * len(self.layers) if states is None else states[r]
            for layer, past, first in zip(self.layers, pasts, firsts, strict=True):
                h_BTD = layer(h_BTD, run.positions, past, first, attending, fed, weight_BT)
            return h_BTD

        if self.mor is None:
            return once(x_BTD, 0, active_BT)
        y_BTD, losses = self.mor(x_BTD, once, run.mor_adaptive, active_BT, run.context.doc_start_BT, run.counted_BT)
        run.add(losses)
        return y_BTD

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


def _recursions(recipe: ModelRecipe, section: HydraRecipe, start: float) -> Recursions:
    if section.mor == "expert_choice":
        return ExpertChoiceRecursions(recipe.d_model, section.recursions)
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

    def forward(self, x_BTD: Tensor, run: Pass, stream: int) -> Tensor:
        x_normed_BTD, row_key_B = self.ffn_norm(x_BTD), run.context.row_key_B
        y_BTD, losses = self.ffn(x_normed_BTD, run.counted_BT, run.moe_dense, row_key_B, stream, run.taught_BE)
        run.add(losses)
        return x_BTD + y_BTD

"""HYDRA's block: attention and feed-forward layer inside a recursion inside a gate; and its expert layer.

block   y = MoD(x, MoR(x, h -> h + CCGQA(norm h), h -> h + SwiGLU(norm h)))
expert  y = x + alpha MoE(norm x)

mod_scope=mlp gates the feed-forward layer alone, and only in blocks between the first and the last:
        y = MoR(x, h -> h + CCGQA(norm h), h -> h + r SwiGLU(norm h))     r decided once, from x, for all recursions
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from models.blocks.ccgqa import CCGQA, CCGQAState, FirstKeys, Positions
from models.blocks.mod import MixtureOfDepths
from models.blocks.moe import MixtureOfExperts
from models.blocks.mor import ExpertChoiceRecursions, GaussianRecursions, Recursions, TokenChoiceRecursions, both
from models.blocks.norm import RMSNorm
from models.blocks.swiglu import SwiGLU
from models.blocks.token_subset import TokenSubset
from models.config import HydraRecipe, ModelRecipe
from models.skeleton import Context


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
    skip: bool  # whether tokens that MoD turns away are skipped
    gather: bool  # whether tokens that do not go on are left out of the computation
    losses: dict[str, list[Tensor]] = field(default_factory=lambda: defaultdict(list))

    def add(self, losses: dict[str, Tensor]) -> None:
        """Note one layer's auxiliary losses, unweighted."""
        for name, loss in losses.items():
            self.losses[name].append(loss)


@dataclass(frozen=True)
class Gate:
    """What MoD decided about the tokens of a block."""

    weight_BT: Tensor
    computed_BT: Tensor | None  # the others are skipped; None: nobody is


class Block(nn.Module):
    """One CCGQA block inside its recursion and its gate; R = 1 and capacity 1 leave those out."""

    def __init__(self, recipe: ModelRecipe, section: HydraRecipe, layer: int):
        super().__init__()
        self.attention_norm = RMSNorm(recipe.d_model, recipe.norm_eps)
        self.attention = CCGQA(recipe, section)
        self.ffn_norm = RMSNorm(recipe.d_model, recipe.norm_eps)
        self.ffn = SwiGLU(recipe.d_model, recipe.d_ff)
        self.gates_mlp = section.mod_scope == "mlp"
        gated = section.capacity < 1 and (not self.gates_mlp or 0 < layer < recipe.n_layers - 1)
        self.mod = MixtureOfDepths(recipe.d_model, section.capacity) if gated else None
        self.mor = _recursions(recipe, section, layer) if section.recursions > 1 else None
        self.first_keys_only = section.mor_kv == "first"
        self.whole_document = section.mod_infer == "topk"
        self.latest_computed: Tensor | None = None  # tokens for which the newest pass did what MoD gates; None: all

    def makes_keys(self, r: int) -> bool:
        """Whether recursion r makes keys and values, or reads those of the first."""
        return r == 0 or not self.first_keys_only

    def forward(self, x_BTD: Tensor, run: Pass, slots: Sequence[CCGQAState | None]) -> Tensor:
        """`slots`: one state per recursion while decoding."""
        gate = None if self.mod is None else self._gate(self.mod, x_BTD, run)
        self.latest_computed = None if gate is None else gate.computed_BT
        if gate is None or self.gates_mlp:
            return self._recursions(x_BTD, run, slots, None, gate)
        out_BTD = self._recursions(x_BTD, run, slots, gate.computed_BT, None)
        return x_BTD + gate.weight_BT[:, :, None].to(x_BTD.dtype) * (out_BTD - x_BTD)

    def _gate(self, mod: MixtureOfDepths, x_BTD: Tensor, run: Pass) -> Gate:
        doc_start_BT = run.context.doc_start_BT
        logit_BT, chosen_BT = mod.choose(x_BTD, doc_start_BT, self.whole_document and not self.training)
        if self.training:
            run.add({"mod": run.mod_open * mod.learn(logit_BT, doc_start_BT, run.counted_BT)})
        weight_BT = 1.0 + run.mod_open * (logit_BT.sigmoid() - 1.0)
        return Gate(torch.where(chosen_BT, weight_BT, 0.0), chosen_BT) if run.skip else Gate(weight_BT, None)

    def _recursions(
        self,
        x_BTD: Tensor,
        run: Pass,
        slots: Sequence[CCGQAState | None],
        active_BT: Tensor | None,
        mlp_gate: Gate | None,
    ) -> Tensor:
        def subset_of(going_BT: Tensor | None) -> TokenSubset | None:
            return TokenSubset.of(going_BT) if going_BT is not None and run.gather else None

        first = FirstKeys() if self.first_keys_only else None

        def once(h_BTD: Tensor, r: int, going_BT: Tensor | None) -> Tensor:
            attending = subset_of(going_BT)
            if mlp_gate is None:
                return self.once(h_BTD, run.positions, slots[r], first, attending, attending)
            fed = subset_of(both(going_BT, mlp_gate.computed_BT))
            return self.once(h_BTD, run.positions, slots[r], first, attending, fed, mlp_gate.weight_BT)

        if self.mor is None:
            return once(x_BTD, 0, active_BT)
        y_BTD, losses = self.mor(x_BTD, once, run.mor_adaptive, active_BT, run.context.doc_start_BT, run.counted_BT)
        run.add(losses)
        return y_BTD

    def once(
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


def _recursions(recipe: ModelRecipe, section: HydraRecipe, layer: int) -> Recursions:
    if section.mor == "expert_choice":
        return ExpertChoiceRecursions(recipe.d_model, section.recursions)
    if section.mor == "token_choice":
        return TokenChoiceRecursions(recipe.d_model, section.recursions)
    start = 0.4 + 0.4 * layer / max(1, recipe.n_layers - 1)
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

"""HYDRA's block: attention and feed-forward layer inside a recursion inside a gate; and its expert layer.

block   y = MoD(x, MoR(x, h -> h + CCGQA(norm h), h -> h + SwiGLU(norm h)))
expert  y = x + alpha MoE(norm x)
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import ItemsView, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from models.blocks.ccgqa import CCGQA, CCGQAState, Positions
from models.blocks.mod import MixtureOfDepths
from models.blocks.moe import MixtureOfExperts
from models.blocks.mor import ExpertChoiceRecursions, GaussianRecursions, Recursions, TokenChoiceRecursions
from models.blocks.norm import RMSNorm
from models.blocks.swiglu import SwiGLU
from models.blocks.token_subset import TokenSubset
from models.config import HydraRecipe, ModelRecipe
from models.skeleton import Context


class Losses:
    """Auxiliary losses by name, in the order the blocks add them. No plain container: wrappers of modules rebuild those
    that they find in arguments, and what a block adds to a copy is lost."""

    def __init__(self) -> None:
        self._found: dict[str, list[Tensor]] = defaultdict(list)

    def __getitem__(self, name: str) -> list[Tensor]:
        return self._found[name]

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
    skip: bool  # whether tokens that MoD turns away are skipped
    gather: bool  # whether tokens that do not go on are left out of the computation
    losses: Losses = field(default_factory=Losses)


class Block(nn.Module):
    """One CCGQA block inside its recursion and its gate; R = 1 and capacity 1 leave those out."""

    def __init__(self, recipe: ModelRecipe, section: HydraRecipe, layer: int):
        super().__init__()
        self.attention_norm = RMSNorm(recipe.d_model, recipe.norm_eps)
        self.attention = CCGQA(recipe, section)
        self.ffn_norm = RMSNorm(recipe.d_model, recipe.norm_eps)
        self.ffn = SwiGLU(recipe.d_model, recipe.d_ff)
        self.mod = MixtureOfDepths(recipe.d_model, section.capacity) if section.capacity < 1 else None
        self.mor = _recursions(recipe, section, layer) if section.recursions > 1 else None
        self.whole_document = section.mod_infer == "topk"
        self.latest_computed: Tensor | None = None  # tokens the newest forward pass did not skip; None: all

    def forward(self, x_BTD: Tensor, run: Pass, slots: Sequence[CCGQAState | None]) -> Tensor:
        """`slots`: one state per recursion while decoding."""
        self.latest_computed = None
        if self.mod is None:
            return self._recursions(x_BTD, run, slots, None)
        doc_start_BT = run.context.doc_start_BT
        logit_BT, chosen_BT = self.mod.choose(x_BTD, doc_start_BT, self.whole_document and not self.training)
        if self.training:
            run.losses["mod"].append(run.mod_open * self.mod.learn(logit_BT, doc_start_BT, run.counted_BT))
        if run.skip:
            self.latest_computed = chosen_BT
        out_BTD = self._recursions(x_BTD, run, slots, self.latest_computed)
        gate_BT = 1.0 + run.mod_open * (logit_BT.sigmoid() - 1.0)
        if run.skip:
            gate_BT = torch.where(chosen_BT, gate_BT, 0.0)
        return x_BTD + gate_BT[:, :, None].to(x_BTD.dtype) * (out_BTD - x_BTD)

    def _recursions(
        self, x_BTD: Tensor, run: Pass, slots: Sequence[CCGQAState | None], active_BT: Tensor | None
    ) -> Tensor:
        def once(h_BTD: Tensor, r: int, going_BT: Tensor | None) -> Tensor:
            subset = TokenSubset.of(going_BT) if going_BT is not None and run.gather else None
            return self.once(h_BTD, run.positions, slots[r], subset)

        if self.mor is None:
            return once(x_BTD, 0, active_BT)
        y_BTD, losses = self.mor(x_BTD, once, run.mor_adaptive, active_BT, run.context.doc_start_BT, run.counted_BT)
        for name, loss in losses.items():
            run.losses[name].append(loss)
        return y_BTD

    def once(self, h_BTD: Tensor, positions: Positions, past: CCGQAState | None, subset: TokenSubset | None) -> Tensor:
        """Attention and feed-forward layer; tokens outside `subset` come back as they are."""
        h_BTD = h_BTD + self.attention(self.attention_norm(h_BTD), positions, past, subset)
        if subset is None:
            return h_BTD + self.ffn(self.ffn_norm(h_BTD))
        return h_BTD + subset.spread(self.ffn(self.ffn_norm(subset.gather(h_BTD))))


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
        y_BTD, loss = self.ffn(self.ffn_norm(x_BTD), run.counted_BT, run.moe_dense, run.context.row_key_B, stream)
        run.losses["moe"].append(loss)
        return x_BTD + y_BTD

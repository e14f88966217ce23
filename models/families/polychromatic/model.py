"""PolychromaticLM: grouped-query attention and PolyGLU, whose neurons choose among four activations.

    x += attention(norm(x));  x += polyglu(norm(x))

Training adds Gumbel noise to the routing logits, one draw per (row, neuron, activation, layer), and lowers
the temperature tau linearly; tau is a buffer, so a checkpoint keeps it. Evaluation adds no noise.
alpha and beta are never decayed: decay silently undoes specialisation.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from athanor.kernels.noise import gumbel
from athanor.kernels.packed_row import PackedRow
from athanor.kernels.polyglu import ACTIVATIONS
from athanor.kernels.rope import rope_table
from athanor.models.blocks.attention import GroupedQueryAttention
from athanor.models.blocks.causal_mean import RunningSum
from athanor.models.blocks.key_values import KeyValues
from athanor.models.blocks.norm import RMSNorm
from athanor.models.cache import Past
from athanor.models.families.polychromatic.polyglu import PolyGLU, Usage
from athanor.models.families.polychromatic.probes import RoutingProbe
from athanor.models.families.polychromatic.recipe import PolychromaticRecipe
from athanor.models.maps import AttentionShare, Probe
from athanor.models.model_recipe import ModelRecipe
from athanor.models.skeleton import Context, LanguageModel
from athanor.models.tally import Means


class LayerState(Past):
    """What one layer remembers while decoding: keys, values, and the sum behind the causal gate."""

    def __init__(self) -> None:
        self.keys_values = KeyValues()
        self.pooled = RunningSum()

    def unpack(self, packed: PackedRow) -> None:
        self.keys_values.unpack(packed)
        self.pooled.unpack(packed)


class PolychromaticBlock(nn.Module):
    """Attention, then PolyGLU, each on the normed stream."""

    def __init__(self, recipe: ModelRecipe, section: PolychromaticRecipe):
        super().__init__()
        self.attention_norm = RMSNorm(recipe.d_model, recipe.norm_eps, before_products=True)
        self.attention = GroupedQueryAttention(recipe)
        self.ffn_norm = RMSNorm(recipe.d_model, recipe.norm_eps, before_products=True)
        self.ffn = PolyGLU(recipe.d_model, recipe.d_ff, section)

    def forward(
        self,
        x_BTD: Tensor,
        context: Context,
        rope: Tensor,
        tau: Tensor,
        noise_BFK: Tensor | None = None,
        past: LayerState | None = None,
    ) -> tuple[Tensor, Usage | None]:
        """The new stream; in training, how the neurons chose."""
        remember, pooled = (past.keys_values.append, past.pooled) if past is not None else (None, None)
        mixed_BTD = self.attention(self.attention_norm(x_BTD), rope, context.span, remember)
        x_BTD, normed_BTD = self.ffn_norm(x_BTD, mixed_BTD)
        y_BTD, chosen = self.ffn(normed_BTD, tau, context, noise_BFK, pooled)
        return x_BTD + y_BTD, chosen


class Polychromatic(LanguageModel):
    """GQA + PolyGLU."""

    smallest_shares = ("activation_share_min",)
    tau: Tensor

    def __init__(self, recipe: ModelRecipe):
        super().__init__(recipe)
        self.section = recipe.section(PolychromaticRecipe)
        self.cacheable = self.section.pool == "causal"
        if not self.cacheable:
            warnings.warn(
                "polychromatic.pool=sequence averages over the whole row, later tokens and other documents "
                "included: training loss is optimistic and decoding cannot be cached; pool=causal avoids both",
                stacklevel=2,
            )
        self.blocks = cast(
            "Sequence[PolychromaticBlock]",
            nn.ModuleList(PolychromaticBlock(recipe, self.section) for _ in range(recipe.n_layers)),
        )
        self.register_buffer("tau", torch.tensor(self.section.tau_start, dtype=torch.float32))

    @property
    def repeating_layers(self) -> tuple[int, int]:
        return 2, 1

    def body(self, x_BTD: Tensor, context: Context) -> Tensor:
        recipe = self.recipe
        rope = rope_table(context.position_BT, recipe.head_dim, recipe.rope_base)
        for layer, block in enumerate(self.blocks):
            x_BTD, chosen = block(x_BTD, context, rope, self.tau, self._noise(layer, context), context.past(layer))
            if chosen is not None:
                self._show(context, layer, chosen)
        return x_BTD

    def _noise(self, layer: int, context: Context) -> Tensor | None:
        """Gumbel noise `[B, F, K]`, shared by all positions of a row; None outside training."""
        if not self.training or context.row_key_B is None:
            return None
        count = self.recipe.d_ff * len(ACTIVATIONS)
        return gumbel(context.row_key_B, layer, count).unflatten(1, (-1, len(ACTIVATIONS)))

    def new_layer_states(self) -> list[LayerState]:
        return [LayerState() for _ in self.blocks]

    def schedule(self, progress: float) -> dict[str, float]:
        start, end = self.section.tau_start, self.section.tau_end
        return {"tau": start * (1.0 - progress) + end * progress}

    def init_parameter(self, name: str, parameter: nn.Parameter, generator: torch.Generator) -> None:
        if name.endswith("router.alpha"):
            parameter.zero_()
        elif name.endswith("router.beta"):
            parameter.fill_(1.0)
        else:
            super().init_parameter(name, parameter, generator)

    def decays(self, name: str, parameter: nn.Parameter) -> bool:
        return super().decays(name, parameter) and not name.endswith("router.alpha")

    def _show(self, context: Context, layer: int, chosen: Usage) -> None:
        """Tally how a layer's neurons chose; what all layers add under one name becomes the mean over them."""
        tally, counted_BT = context.tally, context.tallied_BT
        assert counted_BT is not None
        once = counted_BT.new_ones(())
        tally.add("alpha_square", chosen.alpha_square, once)
        tally.add("static_entropy", chosen.static_entropy, once)
        row_B = counted_BT.any(1)
        of_rows = self.section.pool == "sequence"
        tally.add("dynamic_entropy", chosen.dynamic_entropy_BT, row_B[:, None] if of_rows else counted_BT)
        tally.add("actual_entropy", chosen.actual_entropy_B, row_B)
        tally.add(f"activation_share {layer}", chosen.share_BK, row_B)

    def diagnostics(self, means: Means) -> dict[str, float]:
        """Routing entropies in nats, noise off: static softmax(alpha), dynamic softmax(beta c / tau), actual
        softmax((alpha + beta c) / tau) on the last token of each row, and there the smallest mean share of an
        activation in a layer; root mean square of alpha."""
        entropies = ("static_entropy", "dynamic_entropy", "actual_entropy")
        found = {name: means[name][0] for name in entropies if name in means}
        if "alpha_square" in means:
            found["alpha_rms"] = math.sqrt(means["alpha_square"][0])
        if least := [min(share_K) for name, share_K in means.items() if name.startswith("activation_share ")]:
            found["activation_share_min"] = min(least)
        return found

    def probes(self) -> Sequence[Probe]:
        return [
            AttentionShare([(block.attention_norm, block.attention) for block in self.blocks]),
            RoutingProbe([block.ffn for block in self.blocks], float(self.tau)),
        ]

    def body_flops_per_token(self, context_tokens: float) -> float:
        return sum(
            block.attention.flops_per_token(context_tokens) + block.ffn.flops_per_token() for block in self.blocks
        )

    def cache_bytes_per_token(self, context_tokens: int) -> float:
        keys_values = sum(block.attention.cache_bytes(context_tokens) for block in self.blocks)
        pooled = 4 * self.section.gate_width * len(self.blocks)
        return (keys_values + pooled) / context_tokens

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
from athanor.models.families.polychromatic.polyglu import PolyGLU
from athanor.models.families.polychromatic.probes import RoutingProbe, entropy
from athanor.models.families.polychromatic.recipe import PolychromaticRecipe
from athanor.models.maps import AttentionShare, Probe
from athanor.models.model_recipe import ModelRecipe
from athanor.models.skeleton import Context, LanguageModel


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
        self.attention_norm = RMSNorm(recipe.d_model, recipe.norm_eps)
        self.attention = GroupedQueryAttention(recipe)
        self.ffn_norm = RMSNorm(recipe.d_model, recipe.norm_eps)
        self.ffn = PolyGLU(recipe.d_model, recipe.d_ff, section)

    def forward(
        self,
        x_BTD: Tensor,
        context: Context,
        rope: Tensor,
        tau: Tensor,
        noise_BFK: Tensor | None = None,
        past: LayerState | None = None,
    ) -> Tensor:
        remember, pooled = (past.keys_values.append, past.pooled) if past is not None else (None, None)
        x_BTD = x_BTD + self.attention(self.attention_norm(x_BTD), rope, context.visible, remember)
        ffn_input_BTD = self.ffn_norm(x_BTD)
        return x_BTD + self.ffn(ffn_input_BTD, tau, context, noise_BFK, pooled)


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
            x_BTD = block(x_BTD, context, rope, self.tau, self._noise(layer, context), context.past(layer))
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

    def diagnostics(self) -> dict[str, float]:
        """Routing entropies in nats, noise off: static softmax(alpha), dynamic softmax(beta c / tau), actual
        softmax((alpha + beta c) / tau) on the last token of each row, and there the smallest mean share of an
        activation in a layer; root mean square of alpha."""
        tau = float(self.tau)
        static, dynamic, actual, least, alpha_square = [], [], [], [], []
        for block in self.blocks:
            if (alpha_FK := block.ffn.latest_alpha) is None:
                continue
            static.append(entropy(alpha_FK).mean())
            alpha_square.append(alpha_FK.square().mean())
            if block.ffn.latest_dynamic is not None:
                dynamic.append(self._dynamic_entropy(block.ffn.latest_dynamic / tau))
                logits_NFK = (alpha_FK + self._last_tokens(block.ffn.latest_dynamic)[:, None]) / tau
                if len(logits_NFK):
                    actual.append(entropy(logits_NFK).mean())
                    least.append(logits_NFK.softmax(-1).mean((0, 1)).min())
        found = {"static_entropy": static, "dynamic_entropy": dynamic, "actual_entropy": actual}
        found["activation_share_min"] = [torch.stack(least).min()] if least else []
        return {
            **({"alpha_rms": math.sqrt(float(torch.stack(alpha_square).mean()))} if alpha_square else {}),
            **{name: float(torch.stack(values).mean()) for name, values in found.items() if values},
        }

    def _dynamic_entropy(self, dynamic_BTK: Tensor) -> Tensor:
        entropy_BT = entropy(dynamic_BTK)
        return entropy_BT.mean() if self.section.pool == "sequence" else self.counted_mean(entropy_BT)

    def _last_tokens(self, dynamic_BTK: Tensor) -> Tensor:
        """Those of the last counted token of each row that has any, `[N, K]`."""
        counted_BT = self.latest_counted_BT
        if counted_BT is None or dynamic_BTK.shape[1] == 1:
            return dynamic_BTK[:, -1]
        last_B = (counted_BT * torch.arange(counted_BT.shape[1], device=counted_BT.device)).argmax(1)
        return dynamic_BTK[counted_BT.any(1), last_B[counted_BT.any(1)]]

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

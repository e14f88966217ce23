"""Huginn: a transformer that thinks longer by running its middle again, in latent space.

    e = prelude(embed(ids))                       P blocks, once
    s = noise;  r times:  s = core(adapter[s ; e])    C blocks, the same weights every time
    logits = head(norm(coda(norm(s))))            Q blocks; both norms are the one final norm

A sandwich block norms the *sum* x + branch(norm(x)), so the state that enters the next iteration is normalised.
In training r is drawn once per optimizer step (models/families/huginn/recurrence.py): the published code draws it for
every micro-batch, which would let the micro-batch size change the numbers. Several draws (`draws_per_step`) are shared
out by the rows' keys, whatever rows are computed together. Only the last iterations carry gradient.
Where both grow in a curriculum, a persistent buffer counts its steps, so that resuming and fine-tuning go on with it.
The initial state is a function of (row key, position in the row, channel) in training, so that documents packed into
one row have noise of their own, and of (a fixed key, position within the document, channel) outside it, so that a token
computes the same alone, batched, packed, padded or cached. While decoding, the core may stop at every position
by itself (models/families/huginn/decoding.py). Source: Geiping et al. 2025 and recurrent-pretraining.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from statistics import fmean
from typing import Any, cast

import torch
from torch import Tensor, nn

from athanor.kernels.attention import prepare
from athanor.kernels.noise import keys_at, truncated_normal
from athanor.kernels.rope import rope_table
from athanor.kernels.span import Span
from athanor.models.blocks.key_values import KeyValues
from athanor.models.blocks.norm import NoNorm, RMSNorm
from athanor.models.cache import Remember
from athanor.models.families.huginn.attention import BiasedAttention
from athanor.models.families.huginn.decoding import DepthPolicy, decode
from athanor.models.families.huginn.iteration import Piece
from athanor.models.families.huginn.packed_swiglu import PackedSwiGLU
from athanor.models.families.huginn.probes import RecurrenceProbe
from athanor.models.families.huginn.recipe import HuginnRecipe
from athanor.models.families.huginn.recurrence import Recurrence, draw_recurrences, fixed_recurrence, mean_recurrence
from athanor.models.families.huginn.state_noise import disturbed, noise_share
from athanor.models.maps import AttentionShare, Probe
from athanor.models.model_recipe import ModelRecipe
from athanor.models.skeleton import Context, LanguageModel
from athanor.models.tally import Means, Tally

_STATE_STREAM = 0
_TRUNCATE_AT = 3.0  # standard deviations, of initial weights and states


class HuginnBlock(nn.Module):
    """Attention, then a gated layer; each branch between a norm of its input and a norm of the sum it makes."""

    def __init__(self, recipe: ModelRecipe, section: HuginnRecipe):
        super().__init__()
        norm = partial(RMSNorm, recipe.d_model, recipe.norm_eps, section.norm_gain)
        before = partial(norm, before_products=True) if section.block != "post-norm" else NoNorm
        after = norm if section.block != "pre-norm" else NoNorm
        self.attention_norm = before()
        self.attention = BiasedAttention(recipe, section.qk_bias)
        self.attention_sum_norm = after()
        self.ffn_norm = before()
        self.ffn = PackedSwiGLU(recipe.d_model, recipe.d_ff)
        self.ffn_sum_norm = after()

    def forward(self, x_BTD: Tensor, rope: Tensor, span: Span | None, remember: Remember | None = None) -> Tensor:
        mixed_BTD = self.attention(self.attention_norm(x_BTD), rope, span, remember)
        _, x_BTD = self.attention_sum_norm(x_BTD, mixed_BTD)
        return self.ffn_sum_norm(x_BTD, self.ffn(self.ffn_norm(x_BTD)))[1]

    def flops_per_token(self, context_tokens: float) -> float:
        """Forward matrix-product FLOPs of a token."""
        return self.attention.flops_per_token(context_tokens) + self.ffn.flops_per_token()


class Core(nn.Module):
    """One iteration: the state takes the embedding in, then passes the blocks."""

    def __init__(self, recipe: ModelRecipe, section: HuginnRecipe):
        super().__init__()
        width, layers = recipe.d_model, recipe.n_layers - section.prelude_layers - section.coda_layers
        self.injection, self.adapter = section.injection, None
        if section.injection == "linear":
            self.adapter = nn.Linear(2 * width, width, bias=False)
        elif section.injection == "ffn":
            self.adapter = PackedSwiGLU(width, recipe.d_ff, 2 * width)
        self.blocks = _blocks(recipe, section, layers)

    def forward(
        self,
        s_BTD: Tensor,
        e_BTD: Tensor,
        piece: Piece,
        remember: Callable[..., tuple[Tensor, Tensor]] | None = None,
    ) -> Tensor:
        """The next state; `remember(layer, k, v)` as in BiasedAttention."""
        x_BTD = self.injected(s_BTD, e_BTD)
        for layer, block in enumerate(self.blocks):
            past = None if remember is None else partial(remember, layer)
            x_BTD = block(x_BTD, piece.rope, piece.span, past)
        return x_BTD

    def injected(self, s_BTD: Tensor, e_BTD: Tensor) -> Tensor:
        """What the first block gets of the state and the embedding."""
        if self.adapter is not None:
            return self.adapter(torch.cat((s_BTD, e_BTD), dim=-1))
        if self.injection == "none":
            return s_BTD
        return s_BTD * e_BTD if self.injection == "gate" else s_BTD + e_BTD

    def flops_per_token(self, context_tokens: float) -> float:
        """Forward matrix-product FLOPs of a token, one iteration."""
        adapter = 0.0 if self.adapter is None else 2.0 * sum(weight.numel() for weight in self.adapter.parameters())
        return adapter + sum(block.flops_per_token(context_tokens) for block in self.blocks)


class Huginn(LanguageModel):
    """Prelude, recurrent core, coda."""

    def __init__(self, recipe: ModelRecipe):
        super().__init__(recipe)
        section = self.section = recipe.section(HuginnRecipe)
        self.prelude = _blocks(recipe, section, section.prelude_layers)
        self.core = Core(recipe, section)
        self.coda = _blocks(recipe, section, section.coda_layers)
        self.final_norm = RMSNorm(recipe.d_model, recipe.norm_eps, section.norm_gain)
        self.head = None if section.tied else nn.Linear(recipe.d_model, self.embedding.num_embeddings, bias=False)
        mean, depth = mean_recurrence(section)
        self.drawn = (fixed_recurrence(round(mean), round(depth)),)
        self.depth_policy = DepthPolicy()
        if section.curriculum_steps:
            self.register_buffer("curriculum_step", torch.zeros((), dtype=torch.int64))
        self._asked: Recurrence | None = None

    @property
    def blocks(self) -> list[HuginnBlock]:
        """All blocks, in the order a token meets them first."""
        return [*self.prelude, *self.core.blocks, *self.coda]

    @property
    def head_weight(self) -> Tensor:
        return super().head_weight if self.head is None else self.head.weight

    # What a pass iterates ---------------------------------------------------------------------------------------

    def begin_step(self, step_key: int) -> None:
        step = int(self.get_buffer("curriculum_step")) if self.section.curriculum_steps else None
        self.drawn = draw_recurrences(self.section, step_key, step)

    def after_step(self, loss: float) -> None:
        if self.section.curriculum_steps:
            self.get_buffer("curriculum_step").add_(1)

    def init_weights(self, seed: int) -> None:
        super().init_weights(seed)
        if self.section.curriculum_steps:
            self.get_buffer("curriculum_step").zero_()

    @property
    def recurrences(self) -> tuple[Recurrence, ...]:
        """Iterations of the next forward pass: of all rows, or of each draw's rows."""
        return self.drawn if self.training and self._asked is None else (self.recurrence,)

    @property
    def recurrence(self) -> Recurrence:
        """Iterations of the next forward pass outside training, where all rows have the same."""
        return self._asked or fixed_recurrence(self._eval_steps, self.section.backprop_depth)

    @property
    def _eval_steps(self) -> int:
        return self.section.eval_recurrence or self.section.mean_recurrence

    @contextmanager
    def recurring(self, without_grad: int, with_grad: int = 0) -> Iterator[None]:
        """Within: that many iterations. UserError for none."""
        before, self._asked = self._asked, Recurrence(without_grad, with_grad)
        try:
            yield
        finally:
            self._asked = before

    # The forward pass -------------------------------------------------------------------------------------------

    @property
    def embedding_scale(self) -> float:
        """Of the input alone, not of the head."""
        return math.sqrt(self.recipe.d_model) if self.section.init == "takase" else 1.0

    def embed(self, ids_BT: Tensor) -> Tensor:
        return self.embedding(ids_BT) * self.embedding_scale

    def body(self, x_BTD: Tensor, context: Context) -> Tensor:
        recipe, span = self.recipe, context.span
        past = context.cache.layers if context.cache is not None else None
        if span is not None and past is not None and past[len(self.prelude)].masks:
            span = replace(span, packed=None)
            prepare(span)
        rope = rope_table(context.position_BT, recipe.head_dim, recipe.rope_base)
        piece = Piece(context.offset, x_BTD.shape[1], context.position_BT, rope, span)
        e_BTD = x_BTD
        for layer, block in enumerate(self.prelude):
            e_BTD = block(e_BTD, piece.rope, piece.span, None if past is None else past[layer].append)
        s_BTD = self.initial_state(e_BTD, context)
        if past is None:
            before_BTD, s_BTD = self._iterated(s_BTD, e_BTD, piece, context.row_key_B)
            if context.tallied_BT is not None:
                _show(context.tally, before_BTD, s_BTD, context.tallied_BT)
            return self.read(s_BTD, piece)
        core, *coda = past[len(self.prelude) :]
        return decode(self, s_BTD, e_BTD, piece, context, core, coda)

    def initial_state(self, e_BTD: Tensor, context: Context) -> Tensor:
        """Truncated normal noise of the embedded tokens' shape, standard deviation that of their initial values; the
        tokens themselves where the core reads them no other way."""
        if self.section.injection == "none":
            return e_BTD
        if context.row_key_B is None or not self.training:
            key_BT = keys_at(context.position_BT.new_zeros(1, 1), context.position_BT)
        else:
            column_1T = torch.arange(context.offset, context.offset + e_BTD.shape[1], device=e_BTD.device)[None]
            key_BT = keys_at(context.row_key_B[:, None], column_1T)
        noise_ND = truncated_normal(key_BT.flatten(), _STATE_STREAM, e_BTD.shape[-1], _TRUNCATE_AT)
        return (noise_ND * self.state_std).view(*key_BT.shape, -1).to(e_BTD.dtype).expand_as(e_BTD)

    @property
    def state_std(self) -> float:
        """Standard deviation of a first state, before it is truncated."""
        return self.init_std * self.embedding_scale

    def _iterated(self, s_BTD: Tensor, e_BTD: Tensor, piece: Piece, row_key_B: Tensor | None) -> tuple[Tensor, Tensor]:
        """The states before and after the last iteration. Every draw of the step is run, on no rows too, so that all
        ranks and slices run the core equally often, as sharded weights need it."""
        recurrences = self.recurrences
        if len(recurrences) == 1 or row_key_B is None:
            return self._run_core(s_BTD, e_BTD, piece, recurrences[0])
        draw_of_row = [int(draw) for draw in row_key_B % len(recurrences)]
        parts = []
        for draw, recurrence in enumerate(recurrences):
            rows = [row for row, drawn in enumerate(draw_of_row) if drawn == draw]
            row_N = torch.tensor(rows, dtype=torch.int64, device=s_BTD.device)
            s_NTD, e_NTD = s_BTD.index_select(0, row_N), e_BTD.index_select(0, row_N)
            parts.append(self._run_core(s_NTD, e_NTD, piece.among(row_N), recurrence))
        by_draw = sorted(range(len(draw_of_row)), key=draw_of_row.__getitem__)
        place_B = torch.tensor(by_draw, device=s_BTD.device).argsort()
        before_BTD, s_BTD = (torch.cat(found).index_select(0, place_B) for found in zip(*parts, strict=True))
        return before_BTD, s_BTD

    def _run_core(self, s_BTD: Tensor, e_BTD: Tensor, piece: Piece, recurrence: Recurrence) -> tuple[Tensor, Tensor]:
        """The states before and after the last iteration."""
        before_BTD = s_BTD
        for step in range(recurrence.steps):
            with torch.set_grad_enabled(torch.is_grad_enabled() and step >= recurrence.without_grad):
                s_BTD = self.iterate(before_BTD := s_BTD, e_BTD, piece, step)
        return before_BTD, s_BTD

    def iterate(
        self,
        s_BTD: Tensor,
        e_BTD: Tensor,
        piece: Piece,
        step: int,
        remember: Callable[..., tuple[Tensor, Tensor]] | None = None,
    ) -> Tensor:
        """The state after one more iteration, before which there were `step`; `remember` as in Core."""
        section = self.section
        if section.test_time_noise is not None and not self.training:
            largest = section.test_time_noise * self.state_std
            kind = section.test_time_noise_type or "fixed"
            share = noise_share(kind, largest, step, section.mean_recurrence)
            s_BTD = self.core.blocks[-1].ffn_sum_norm(disturbed(s_BTD, piece.position_BT, step, share))
        return self.core(s_BTD, e_BTD, piece, remember)

    def read(self, s_BTD: Tensor, piece: Piece, remember: Sequence[Remember] | None = None) -> Tensor:
        """What the coda makes of a state; the final norm, here before it, is used again after it."""
        x_BTD = self.final_norm(s_BTD)
        for layer, block in enumerate(self.coda):
            x_BTD = block(x_BTD, piece.rope, piece.span, None if remember is None else remember[layer])
        return x_BTD

    def new_layer_states(self) -> list[Any]:
        """Per prelude block, for the whole core, per coda block."""
        core = self.depth_policy.new_cache(len(self.core.blocks))
        return [*(KeyValues() for _ in self.prelude), core, *(KeyValues() for _ in self.coda)]

    # Initialisation, counts, measurements -----------------------------------------------------------------------

    @property
    def init_std(self) -> float:
        return math.sqrt(2 / (5 * self.recipe.d_model))

    @property
    def residual_writes(self) -> int:
        """Twice the effective depth, which counts the core mean_recurrence times."""
        section, core = self.section, len(self.core.blocks)
        return 2 * (section.prelude_layers + core * section.mean_recurrence + section.coda_layers)

    def init_parameter(self, name: str, parameter: nn.Parameter, generator: torch.Generator) -> None:
        """Gains 1, biases 0; matrices N(0, 2 / (5 d_model)) cut at 3 deviations, or orthogonal with that mean square;
        those that write into the residual stream / sqrt(residual_writes)."""
        if parameter.ndim == 1:
            parameter.fill_(1.0 if name.endswith("gain") else 0.0)
            return
        std = self.init_std
        if name.endswith((".out.weight", ".down.weight")):
            std /= self.residual_writes**0.5
        fresh = torch.empty(parameter.shape)
        if self.section.init == "scaled-orthogonal" and name != "embedding.weight":
            nn.init.orthogonal_(fresh, gain=std * max(fresh.shape) ** 0.5, generator=generator)
        else:
            reach = _TRUNCATE_AT * std
            nn.init.trunc_normal_(fresh, std=std, a=-reach, b=reach, generator=generator)
        parameter.copy_(fresh)

    def body_flops_per_token(self, context_tokens: float) -> float:
        """With the mean number of iterations in training."""
        return self._flops(context_tokens, mean_recurrence(self.section)[0])

    def trained_body_flops_per_token(self, context_tokens: float) -> float:
        """With the iterations that carry gradient."""
        return self._flops(context_tokens, mean_recurrence(self.section)[1])

    def _flops(self, context_tokens: float, iterations: float) -> float:
        once = sum(block.flops_per_token(context_tokens) for block in (*self.prelude, *self.coda))
        return once + iterations * self.core.flops_per_token(context_tokens)

    def cache_bytes_per_token(self, context_tokens: int) -> float:
        """Every iteration keeps keys and values of its own; besides, each token's steps and the newest state."""
        slots = len(self.prelude) + len(self.core.blocks) * self._eval_steps + len(self.coda)
        keys_values = slots * 2.0 * 2.0 * self.recipe.n_kv_heads * self.recipe.head_dim
        return keys_values + 8.0 + 4.0 * self.recipe.d_model / context_tokens

    def diagnostics(self, means: Means) -> dict[str, float]:
        """The step's iterations, a mean where there are several draws; how far the last iteration moved the states,
        relative to them, and the cosine between states of neighbouring positions (1: all tokens have collapsed into
        one)."""
        return {
            "recurrence": fmean(one.steps for one in self.recurrences),
            "recurrence_with_grad": fmean(one.with_grad for one in self.recurrences),
            **{name: mean for name, (mean,) in means.items()},
        }

    def probes(self) -> Sequence[Probe]:
        return [
            AttentionShare([(block.attention_norm, block.attention) for block in self.blocks]),
            RecurrenceProbe(self),
        ]


@torch.no_grad()
def _show(tally: Tally, before_BTD: Tensor, s_BTD: Tensor, counted_BT: Tensor) -> None:
    """Add what the last iteration did to the states; of neighbours, the pairs that both count."""
    before_BTD, s_BTD = before_BTD.float(), s_BTD.float()
    tally.add("state_change", (s_BTD - before_BTD).norm(dim=-1) / s_BTD.norm(dim=-1), counted_BT)
    cosine_BP = torch.cosine_similarity(s_BTD[:, 1:], s_BTD[:, :-1], dim=-1)
    tally.add("neighbour_cosine", cosine_BP, counted_BT[:, 1:] & counted_BT[:, :-1])


def _blocks(recipe: ModelRecipe, section: HuginnRecipe, layers: int) -> Sequence[HuginnBlock]:
    return cast("Sequence[HuginnBlock]", nn.ModuleList(HuginnBlock(recipe, section) for _ in range(layers)))

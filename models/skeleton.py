"""What a model of any family is: embedding, body, tied head, loss, cache, initialisation.

A family subclasses `LanguageModel` and gives its `body`: the block stack from embedded tokens to the final
norm's input. It owns its blocks, what one layer remembers while decoding, its FLOPs, and by the classes that this one
is made of its curriculum, parameter groups, diagnostics and probes. Invariants held here: the head is the embedding,
stored and optimized once; [B, T, V] never exists in training; a forward pass is a pure function of its arguments and
the parameters.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn

from athanor.core.errors import UserError
from athanor.core.targets import IGNORE
from athanor.kernels.attention import prepare
from athanor.kernels.cross_entropy import linear_cross_entropy, sample_classes, soft_cap
from athanor.kernels.noise import uniform
from athanor.kernels.packed_row import PackedRow, newest
from athanor.kernels.span import Span
from athanor.models.blocks.norm import RMSNorm
from athanor.models.cache import Cache
from athanor.models.curriculum import Curriculum
from athanor.models.maps import Observed
from athanor.models.model_recipe import ModelRecipe
from athanor.models.parameter_groups import ParameterGroups
from athanor.models.tally import Tally

INIT_STD = 0.02
SAMPLED_TARGETS_STREAM = 1 << 20  # of the row's noise; the families' streams count layers


@dataclass
class Context:
    """What all blocks of one forward pass share."""

    offset: int  # row position of the first new token
    position_BT: Tensor  # of the new tokens within their documents, int64, one row for all or one each
    doc_start_BT: Tensor | None
    row_key_B: Tensor | None
    span: Span | None
    cache: Cache | None
    counted_BT: Tensor | None = None  # only while a loss is computed: see `counted_tokens`
    packed: PackedRow | None = None  # only while the documents of a row are read that become the cache's rows
    source_B: Tensor | None = None  # likewise: see Curriculum.begin_training
    tallied_BT: Tensor | None = None  # in training the counted tokens: of which `body` adds to `tally` what they show
    aux: dict[str, Tensor] = field(default_factory=dict)  # a family's auxiliary losses, weighted, per token
    tally: Tally = field(default_factory=Tally)

    def past(self, layer: int) -> Any:
        """What a layer remembers; None without a cache."""
        return None if self.cache is None else self.cache.layers[layer]


class Loss(NamedTuple):
    """`total`: fp32 sum of cross-entropies in nats over `tokens` targets. The objective of these rows is
    total / tokens + sum(aux.values()). An auxiliary loss, its weight included, is a mean of one value for each row, in
    which a row weighs by its tokens in `counted`; so that of a step is the mean of its slices' by the same weight,
    however it is sliced. A tuple, so that engines see the tensors in it."""

    total: Tensor
    tokens: Tensor
    aux: dict[str, Tensor]
    counted: Tensor  # how many of `counted_tokens` there are
    tally: Tally  # for the diagnostics of the step; empty outside training


def counted_tokens(targets_BT: Tensor, doc_start_BT: Tensor | None) -> Tensor:
    """bool `[B, T]`: the tokens of documents with any target, which padding has not; auxiliary losses are taken of them
    alone. Known from the batch before anything is computed."""
    is_target_BT = targets_BT != IGNORE
    if doc_start_BT is None:
        return is_target_BT.any(1, keepdim=True).expand_as(is_target_BT)
    targets_of_BT = torch.zeros_like(doc_start_BT).scatter_add(1, doc_start_BT, is_target_BT.long())
    return targets_of_BT.gather(1, doc_start_BT) > 0


class LanguageModel(Curriculum, ParameterGroups, Observed):
    """A decoder with tied embedding and head. Build on any device, then call `init_weights` or load a state dict."""

    cacheable = True  # False where a new token changes what earlier tokens computed
    logit_cap: float | None = None  # what no logit exceeds, softly
    label_smoothing = 0.0  # of the targets in training

    def __init__(self, recipe: ModelRecipe):
        super().__init__()
        if recipe.vocab_size is None:
            raise UserError("model.vocab_size is empty: fill it in from the tokenizer before building the model")
        self.recipe = recipe
        self.embedding = nn.Embedding(recipe.vocab_size, recipe.d_model)
        self.final_norm = RMSNorm(recipe.d_model, recipe.norm_eps)

    @abstractmethod
    def body(self, x_BTD: Tensor, context: Context) -> Tensor:
        """The family's blocks: embedded tokens in, residual stream out."""

    @abstractmethod
    def new_layer_states(self) -> list[Any]:
        """What each layer remembers while decoding, empty."""

    @abstractmethod
    def body_flops_per_token(self, context_tokens: float) -> float:
        """Forward matrix-product FLOPs of one token in the body, `context_tokens` keys being visible on average."""

    @abstractmethod
    def cache_bytes_per_token(self, context_tokens: int) -> float:
        """Bytes of cache that a row of `context_tokens` holds, divided by them: 2 a value in bf16, 4 in fp32."""

    def trained_body_flops_per_token(self, context_tokens: float) -> float:
        """Those of them that gradient goes back through; fewer where a family truncates backpropagation."""
        return self.body_flops_per_token(context_tokens)

    @property
    def repeating_layers(self) -> tuple[int, int] | None:
        """(first, period): of `first` layers or more, `period` more do just what the `period` before them do; None
        where layers differ in other ways. A step is then counted from two shallow models (models/step_count.py)."""
        return None

    def units(self) -> list[nn.Module]:
        """The blocks in the order a token meets them: what is recomputed, compiled or sharded as one."""
        return list(cast(Any, self).blocks)

    @property
    def head_weight(self) -> Tensor:
        """`[V, D]`: the embedding, unless a family unties them."""
        return self.embedding.weight

    def embed(self, ids_BT: Tensor) -> Tensor:
        """Embedded tokens `[B, T, D]`; a family that scales them overrides this."""
        return self.embedding(ids_BT)

    def hidden(
        self,
        ids_BT: Tensor,
        doc_start_BT: Tensor | None = None,
        row_key_B: Tensor | None = None,
        cache: Cache | None = None,
    ) -> Tensor:
        """Final-normed hidden states `[B, T, D]`. With a cache, ids are the newest T tokens and it advances by T."""
        return self._run(ids_BT, doc_start_BT, row_key_B, cache)[0]

    def logits(self, h: Tensor) -> Tensor:
        """`[..., D]` -> `[..., V]` through the head."""
        return soft_cap(nn.functional.linear(h, self.head_weight), self.logit_cap)

    def forward(
        self,
        ids_BT: Tensor,
        doc_start_BT: Tensor | None = None,
        row_key_B: Tensor | None = None,
        cache: Cache | None = None,
    ) -> Tensor:
        """Logits `[B, T, V]`; training uses `loss`, which never makes this tensor."""
        return self.logits(self.hidden(ids_BT, doc_start_BT, row_key_B, cache))

    def loss(
        self,
        ids_BT: Tensor,
        targets_BT: Tensor,
        doc_start_BT: Tensor | None = None,
        row_key_B: Tensor | None = None,
        source_B: Tensor | None = None,
    ) -> Loss:
        """Cross-entropy against `targets_BT` (int64, -100 ignored), smoothed in training; see `Loss`. `source_B` int64
        indexes the sources `begin_training` was given."""
        counted_BT = counted_tokens(targets_BT, doc_start_BT)
        h_BTD, context = self._run(ids_BT, doc_start_BT, row_key_B, None, counted_BT, source_B=source_B)
        smoothing = self.label_smoothing if self.training else 0.0
        h_ND, target_N = h_BTD.flatten(0, 1), targets_BT.flatten()
        total = linear_cross_entropy(h_ND, self.head_weight, target_N, self.logit_cap, smoothing)
        return Loss(total, (targets_BT != IGNORE).sum(), context.aux, counted_BT.sum(), context.tally)

    def sampled_loss(
        self,
        ids_BT: Tensor,
        targets_BT: Tensor,
        doc_start_BT: Tensor | None,
        row_key_B: Tensor,
        source_B: Tensor | None = None,
    ) -> Loss:
        """Cross-entropy against targets drawn from the model's own prediction where `targets_BT` has any, without
        auxiliary losses: what the Gauss-Newton-Bartlett estimator differentiates (arXiv 2305.14342, alg. 2). The draw
        is a function of the row's key and the position."""
        counted_BT = counted_tokens(targets_BT, doc_start_BT)
        h_BTD, _ = self._run(ids_BT, doc_start_BT, row_key_B, None, counted_BT, source_B=source_B)
        h_ND = h_BTD.flatten(0, 1)
        uniform_BT = uniform(row_key_B, SAMPLED_TARGETS_STREAM, ids_BT.shape[1])
        drawn_N = sample_classes(h_ND.detach(), self.head_weight.detach(), uniform_BT.flatten(), self.logit_cap)
        drawn_N = drawn_N.where(targets_BT.flatten() != IGNORE, IGNORE)
        total = linear_cross_entropy(h_ND, self.head_weight, drawn_N, self.logit_cap)
        return Loss(total, (targets_BT != IGNORE).sum(), {}, counted_BT.sum(), Tally())

    def prefill(self, documents: Sequence[Sequence[int]]) -> tuple[Tensor, Cache]:
        """Reads N documents as one packed row, without padding. Returns the final-normed hidden states `[N, D]` of
        their last tokens, and the cache of N rows as rows padded on the left leave it: row n's document begins at
        position `longest - len(documents[n])`. UserError where the family cannot decode incrementally."""
        packed, device = PackedRow(tuple(map(len, documents))), self.embedding.weight.device
        ids_1T = torch.tensor([[token for document in documents for token in document]], device=device)
        cache = self.new_cache(1)
        h_1TD, _ = self._run(ids_1T, packed.doc_start(device), None, cache, packed=packed)
        cache.unpack(packed)
        return newest(h_1TD, 1, packed)[:, 0], cache

    def _run(
        self,
        ids_BT: Tensor,
        doc_start_BT: Tensor | None,
        row_key_B: Tensor | None,
        cache: Cache | None,
        counted_BT: Tensor | None = None,
        packed: PackedRow | None = None,
        source_B: Tensor | None = None,
    ) -> tuple[Tensor, Context]:
        rows, length = ids_BT.shape
        if cache is not None and cache.rows != rows:
            raise ValueError(f"the cache holds {cache.rows} rows, the batch {rows}")
        offset = cache.length if cache is not None else 0
        position_BT = torch.arange(offset, offset + length, device=ids_BT.device)[None]
        if doc_start_BT is not None:
            position_BT = position_BT - doc_start_BT
        limit = self.recipe.max_seq_len
        if cache is None and length > limit:
            raise UserError(
                f"a row of {length} tokens exceeds model.max_seq_len={limit}: shorten the rows or raise max_seq_len"
            )
        # Rows that have ended may run on while others of the batch are decoded.
        if offset + length > limit and bool((position_BT[:, -1] >= limit).all()):
            raise UserError(f"position {offset + length - 1} exceeds model.max_seq_len={limit}")
        span = None if doc_start_BT is None else Span(doc_start_BT, offset, packed=packed)
        prepare(span)
        context = Context(
            offset,
            position_BT,
            doc_start_BT,
            row_key_B,
            span,
            cache,
            counted_BT,
            tallied_BT=counted_BT if self.training else None,
            packed=packed,
            source_B=source_B,
            tally=Tally(),  # torch.compile calls no default_factory of ours
        )
        h_BTD = self.final_norm(self.body(self.embed(ids_BT), context))
        if cache is not None:
            cache.length += length
        return h_BTD, context

    def new_cache(self, batch_rows: int) -> Cache:
        """An empty cache for `batch_rows` rows. UserError where the family cannot decode incrementally."""
        if not self.cacheable:
            raise UserError(f"this {self.recipe.family} model computes from whole rows: decoding cannot be cached")
        return Cache(batch_rows, self.new_layer_states())

    def active_parameters(self) -> int:
        """Parameters one token passes through; a family that chooses among experts overrides this."""
        return sum(parameter.numel() for parameter in self.parameters())

    def init_weights(self, seed: int) -> None:
        """Set every parameter and buffer: the same numbers for the same seed on every device, also after to_empty."""
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for name, parameter in self.named_parameters():
                self.init_parameter(name, parameter, generator)
        self.apply_schedule(self.schedule(0.0))

    @property
    def init_std(self) -> float:
        """Standard deviation of a matrix's initial values."""
        return INIT_STD

    @property
    def residual_writes(self) -> int:
        """How many branch outputs a token's residual stream adds up."""
        return 2 * self.recipe.n_layers

    def init_parameter(self, name: str, parameter: nn.Parameter, generator: torch.Generator) -> None:
        """Gains 1, biases 0, matrices N(0, 0.02); those that write into the residual stream / sqrt(residual_writes)."""
        if name.endswith(".gain"):
            parameter.fill_(1.0)
        elif name.endswith(".bias"):
            parameter.zero_()
        else:
            writes_residual = name.endswith((".out.weight", ".down.weight"))
            std = self.init_std / self.residual_writes**0.5 if writes_residual else self.init_std
            parameter.copy_(torch.empty(parameter.shape).normal_(0.0, std, generator=generator))

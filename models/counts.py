"""Parameters, FLOPs and cache of a recipe, from the meta device: no memory, no weights."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from athanor.models.build import build_on_meta
from athanor.models.model_recipe import ModelRecipe

PARTS = ("embedding", "attention", "ffn", "routing", "norms", "adapter", "head")


@dataclass(frozen=True)
class Flops:
    """Matrix-product FLOPs of one token."""

    forward: float
    backward: float


def part_of(name: str) -> str:
    """The part a parameter belongs to, from the names of the modules around it."""
    owners = name.split(".")[:-1]
    if owners[-1].endswith("norm"):
        return "norms"
    if "router" in owners:
        return "routing"
    if owners[-1].endswith("embedding"):
        return "embedding"
    return next(part for part in PARTS if part in owners)


def parameter_counts(recipe: ModelRecipe) -> dict[str, int]:
    """Parameters by part, `total` (the tied head once) and `active`, those one token passes through."""
    counts: Counter[str] = Counter()
    model = build_on_meta(recipe)
    for name, parameter in model.named_parameters():
        counts[part_of(name)] += parameter.numel()
    parts = {part: counts[part] for part in PARTS if part in counts}
    return {**parts, "total": counts.total(), "active": model.active_parameters()}


def flops_per_token(recipe: ModelRecipe, seq_len_tokens: int) -> Flops:
    """Forward and backward matrix-product FLOPs of one token in rows of one document of `seq_len_tokens`.

    Convention: 2 per multiply-add; attention counts the (T + 1) / 2 keys a causal query sees on average, not T;
    embedding look-up and elementwise work count nothing; backward is twice the part of the forward pass that gradient
    goes through; nothing is recomputed.
    """
    model = build_on_meta(recipe)
    context_tokens, head = (seq_len_tokens + 1) / 2, 2.0 * model.head_weight.numel()
    return Flops(
        forward=model.body_flops_per_token(context_tokens) + head,
        backward=2.0 * (model.trained_body_flops_per_token(context_tokens) + head),
    )


def cache_bytes_per_token(recipe: ModelRecipe, context_tokens: int) -> float:
    """Bytes of cache one row of `context_tokens` holds while decoding, per token; 0 where decoding cannot be cached.

    Convention: 2 bytes a value, as computed in bf16, but 4 where a family keeps fp32 sums.
    """
    model = build_on_meta(recipe)
    return model.cache_bytes_per_token(context_tokens) if model.cacheable else 0.0

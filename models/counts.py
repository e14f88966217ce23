"""Parameters and FLOPs of a recipe, from the meta device: no memory, no weights."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from models.build import build_model
from models.config import ModelRecipe
from models.skeleton import LanguageModel

PARTS = ("embedding", "attention", "ffn", "routing", "norms")


@dataclass(frozen=True)
class Flops:
    """Matrix-product FLOPs of one token."""

    forward: float
    backward: float


def _on_meta(recipe: ModelRecipe) -> LanguageModel:
    with torch.device("meta"):
        return build_model(recipe)


def part_of(name: str) -> str:
    """The part a parameter belongs to, from the names of the modules around it."""
    owners = name.split(".")[:-1]
    if owners[-1].endswith("norm"):
        return "norms"
    if "router" in owners:
        return "routing"
    return next(part for part in PARTS if part in owners)


def parameter_counts(recipe: ModelRecipe) -> dict[str, int]:
    """Parameters by part, `total` (the tied head once) and `active`, those one token passes through."""
    counts: dict[str, int] = {part: 0 for part in PARTS}
    for name, parameter in _on_meta(recipe).named_parameters():
        counts[part_of(name)] += parameter.numel()
    total = sum(counts.values())
    return {**counts, "total": total, "active": total}


def flops_per_token(recipe: ModelRecipe, seq_len_tokens: int) -> Flops:
    """Forward and backward matrix-product FLOPs of one token in rows of one document of `seq_len_tokens`.

    Convention: 2 per multiply-add; attention counts the (T + 1) / 2 keys a causal query sees on average, not T;
    embedding look-up and elementwise work count nothing; backward is twice forward; nothing is recomputed.
    """
    model = _on_meta(recipe)
    forward = model.body_flops_per_token((seq_len_tokens + 1) / 2) + 2.0 * model.embedding.weight.numel()
    return Flops(forward=forward, backward=2.0 * forward)

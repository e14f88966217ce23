"""What building an artifact costs, in units that no machine changes. Every stage says it of itself, from its recipe.

A stage's `cost(recipe, preset, **inputs)` gets the costs of its inputs under the names that `build` gets the artifacts
under. What a second of a machine does, and what earlier artifacts took, is flows/plan's to know.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from athanor.data.data_recipe import TokenizerRecipe
from athanor.tasks.trainer.train_recipe import TrainRecipe

STARTUP_S = 10.0  # importing, loading a model
TOKENIZE_BYTES_PER_S = 3e6  # of text
MOST_BYTES_PER_TOKEN = 4.0  # of text, about, with a large vocabulary
SHARDS_SHARE = 1.0  # bytes on disk for a byte of text


@dataclass(frozen=True)
class Cost:
    """Of a stage that does not train. `wall_s` is None where only building tells, and `unknown` says what would help.

    `forward_tokens` are those the preset's model reads beside it, at the speed of a forward pass; `text_bytes` is the
    UTF-8 text in what is built, for the stages that read it.
    """

    wall_s: float | None
    disk_bytes: float = 0.0
    forward_tokens: float = 0.0
    text_bytes: float | None = None
    unknown: str = ""


@dataclass(frozen=True)
class TrainingCost:
    """Of a stage that trains: its steps, and as many held-out evaluations of `held_out_sources` as they ask for.

    `epochs` says about how often it reads each source, by the bytes of those whose length is known.
    """

    train: TrainRecipe
    held_out_sources: int
    epochs: Mapping[str, float] = field(default_factory=dict)


def bytes_per_token(tokenizer: TokenizerRecipe) -> float:
    """Of text, about: half a byte more for every doubling of a trained vocabulary, from two at 512, up to four."""
    if tokenizer.path is not None or tokenizer.hub is not None:
        return MOST_BYTES_PER_TOKEN
    return min(MOST_BYTES_PER_TOKEN, max(1.0, 2.0 + 0.5 * math.log2(tokenizer.vocab_size / 512)))


def passing_over(text_bytes: float | None, bytes_per_s: float, disk_share: float) -> Cost:
    """Of going through a text once, leaving `disk_share` bytes for each of its bytes; None is a text of any length."""
    if text_bytes is None:
        return Cost(None, unknown="unknown: set max_bytes to bound the source")
    return Cost(text_bytes / bytes_per_s + 1.0, disk_share * text_bytes, text_bytes=text_bytes)


def tokenizing(documents: Cost) -> Cost:
    """Of turning documents into token shards."""
    return passing_over(documents.text_bytes, TOKENIZE_BYTES_PER_S, SHARDS_SHARE)

"""Stage `tokenize`: the documents of one source become uint32 token shards."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from athanor.core.recipe import Recipe
from athanor.core.store import Artifact
from athanor.data.splits import SPLITS
from athanor.tasks.cost import Cost, tokenizing
from athanor.tasks.stage import Lifecycle, Stage, StageRun, Wanted

if TYPE_CHECKING:
    from athanor.tasks.preset_recipe import Preset


class TokenShardsRecipe(Recipe):
    """Nothing but the documents and the tokenizer decides the tokens; both are parents."""


def wanted(life: Lifecycle) -> Iterator[Wanted]:
    """The shards of every pretraining source."""
    for source, documents in life.all("acquire").items():
        inputs = {"documents": documents, "tokenizer": life.one("tokenizer")}
        yield Wanted(source, documents.label, TokenShardsRecipe(), inputs)


def cost(recipe: TokenShardsRecipe, preset: Preset, *, documents: Cost, tokenizer: Cost) -> Cost:
    """Reading the documents once."""
    return tokenizing(documents)


def build(recipe: TokenShardsRecipe, run: StageRun, *, documents: Artifact, tokenizer: Artifact) -> dict:
    """Write token shards of the training and held-out text; a killed run goes on at the next shard."""
    from athanor.data.shards import write_shards

    workers, progress = run.runtime.workers, run.progress
    facts = write_shards(documents.path, tokenizer.path, documents.label, run.out, workers, progress)
    for split in SPLITS:
        if characters := facts.get(f"{split}_normalized_characters"):
            run.log(f"{documents.label}, {split}: the tokenizer's NFC replaced {characters:,} characters of the text")
    return facts


STAGE = Stage("tokenize", part="data", wanted=wanted, cost=cost, build=build, resumable=True, shares=True)

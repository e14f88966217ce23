"""Stage `tokenize`: the documents of one source become uint32 token shards."""

from __future__ import annotations

from athanor.core.recipe import Recipe
from athanor.core.store import Artifact
from athanor.tasks.stage import StageRun, stage


class TokenizeRecipe(Recipe):
    """Nothing but the documents and the tokenizer decides the tokens; both are parents."""


@stage("tokenize", resumable=True)
def tokenize(recipe: TokenizeRecipe, run: StageRun, *, documents: Artifact, tokenizer: Artifact) -> dict:
    """Write token shards of the training and held-out text; a killed run goes on at the next shard."""
    from athanor.data.shards import write_shards

    return write_shards(documents.path, tokenizer.path, documents.label, run.out, run.runtime.workers, run.progress)

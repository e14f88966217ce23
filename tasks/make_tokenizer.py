"""Stage `tokenizer`: load a tokenizer, or train one on the sources in the proportions of the mixture."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pydantic import Field

from athanor.core.recipe import Recipe
from athanor.core.store import Artifact, sha256_file
from athanor.data.data_recipe import TokenizerRecipe
from athanor.data.documents import read_documents
from athanor.tasks.stage import StageRun, stage


class TokenizerStageRecipe(Recipe):
    """What fixes a tokenizer: the content of a loaded file, or the training settings and proportions."""

    tokenizer: TokenizerRecipe = Field(exclude=True)
    asked: dict[str, Any]
    sha256: str | None = Field(default=None, description="Of a loaded file")
    proportions: dict[str, float] | None = Field(default=None, description="Share of the training text by source")

    @classmethod
    def of(cls, tokenizer: TokenizerRecipe, proportions: dict[str, float]) -> TokenizerStageRecipe:
        """The recipe. Raises UserError if a tokenizer file is missing."""
        trained = tokenizer.path is None and tokenizer.hub is None
        unused = {"path"} if trained else {"path", "vocab_size", "train_bytes"}
        return cls(
            tokenizer=tokenizer,
            asked=tokenizer.model_dump(mode="json", exclude=unused, exclude_none=True),
            sha256=_sha256(tokenizer.path) if tokenizer.path is not None else None,
            proportions=proportions if trained else None,
        )


def label(tokenizer: TokenizerRecipe) -> str:
    """A readable name for a tokenizer's artifact."""
    if tokenizer.hub is not None:
        return tokenizer.hub.rpartition("/")[2].lower()
    return "file" if tokenizer.path is not None else f"bpe-{tokenizer.vocab_size}"


@stage("tokenizer")
def tokenizer(recipe: TokenizerStageRecipe, run: StageRun, *, documents: dict[str, Artifact]) -> dict:
    """Write `tokenizer.json` with its end-of-document id and the bytes each id stands for."""
    from athanor.data.tokenizer import build_tokenizer

    return build_tokenizer(recipe.tokenizer, _training_text(recipe, documents), run.out)


def _sha256(path: str) -> str:
    from athanor.data.tokenizer import tokenizer_file

    return sha256_file(tokenizer_file(path))


def _training_text(recipe: TokenizerStageRecipe, documents: dict[str, Artifact]) -> Iterator[str]:
    total = sum((recipe.proportions or {}).values())
    for source, artifact in sorted(documents.items()):
        left_bytes = recipe.tokenizer.train_bytes * (recipe.proportions or {})[source] / total
        for document in read_documents(artifact.path, "train"):
            if left_bytes <= 0:
                break
            left_bytes -= len(document.text.encode())
            yield document.text

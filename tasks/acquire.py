"""Stage `acquire`: one source becomes documents on disk, split into training and held-out text."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from athanor.core.recipe import Recipe
from athanor.data.data_recipe import ChatSourceRecipe, SourceRecipe
from athanor.data.documents import write_documents
from athanor.data.sources.source import source_of
from athanor.tasks.stage import StageRun, stage


class AcquireRecipe(Recipe):
    """What fixes a source's text. Where a local file lies is not part of it; its content is."""

    source: ChatSourceRecipe | SourceRecipe = Field(exclude=True)
    asked: dict[str, Any]
    identity: dict[str, Any]

    @classmethod
    def of(cls, source: SourceRecipe) -> AcquireRecipe:
        """The recipe of a source. Raises UserError if its local files are missing or empty."""
        asked = source.model_dump(mode="json", exclude={"path"}, exclude_none=True)
        return cls(source=source, asked=asked, identity=source_of(source).identity(source))


def label(source: SourceRecipe) -> str:
    """A readable name for a source's artifacts."""
    return source_of(source).label(source)


@stage("acquire")
def acquire(recipe: AcquireRecipe, run: StageRun) -> dict:
    """Read a source into Parquet documents, rejecting and counting what cannot be used."""
    return write_documents(recipe.source, run.out, run.progress)

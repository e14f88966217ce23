"""Stage `acquire`: one source becomes documents on disk, split into training and held-out text."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from pydantic import Field

from athanor.core.recipe import Recipe
from athanor.data.data_recipe import ChatSourceRecipe, SourceRecipe
from athanor.data.documents import check_first_records, write_documents
from athanor.data.hub_access import Repository
from athanor.data.sources.source import source_of
from athanor.tasks.cost import Cost, passing_over
from athanor.tasks.external import External
from athanor.tasks.stage import CONVERSATIONS, Lifecycle, Stage, StageRun, Wanted

if TYPE_CHECKING:
    from athanor.tasks.preset_recipe import Preset

DOCUMENTS_SHARE = 0.4  # bytes on disk for a byte of text


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


def wanted(life: Lifecycle) -> Iterator[Wanted]:
    """The documents of every pretraining source; those of the conversations are there for `chat`."""
    for name, source in life.preset.data.sources.items():
        yield Wanted(name, source_of(source).label(source), AcquireRecipe.of(source))
    if life.preset.sft is not None:
        source = life.preset.sft.source
        label = f"{source_of(source).label(source)}-chat"
        yield Wanted(CONVERSATIONS, label, AcquireRecipe.of(source), on_request=True)


def external(preset: Preset) -> Iterator[External]:
    """Every source: its files, or its data set on the hub."""
    sources: dict[str, tuple[str, SourceRecipe]] = {
        name: (f"data.sources.{name}", source) for name, source in preset.data.sources.items()
    }
    if preset.sft is not None:
        sources[CONVERSATIONS] = (CONVERSATIONS, preset.sft.source)
    for member, (field, source) in sources.items():
        yield External(
            field,
            (member,),
            lambda source=source: _check(source),
            lambda source=source: _repositories(source),
        )


def cost(recipe: AcquireRecipe, preset: Preset) -> Cost:
    """Reading once the text that the source is bounded to."""
    source = source_of(recipe.source)
    return passing_over(source.text_bytes(recipe.source, recipe.identity), source.read_bytes_per_s, DOCUMENTS_SHARE)


def build(recipe: AcquireRecipe, run: StageRun) -> dict:
    """Read a source into Parquet documents, rejecting and counting what cannot be used."""
    return write_documents(recipe.source, run.out, run.progress)


def _check(source: SourceRecipe) -> None:
    AcquireRecipe.of(source)
    check_first_records(source)


def _repositories(source: SourceRecipe) -> Iterator[Repository]:
    if (repository := source_of(source).repository(source)) is not None:
        yield repository


STAGE = Stage("acquire", part="data", wanted=wanted, external=external, cost=cost, build=build)

"""Stage `acquire`: one source becomes documents on disk, split into training and held-out text."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from pydantic import Field

from athanor.core.errors import UserError
from athanor.core.recipe import Recipe
from athanor.data.data_recipe import ORIGINS, ChatSourceRecipe, SourceRecipe
from athanor.data.documents import source_identity, write_documents
from athanor.tasks.cost import Cost, passing_over
from athanor.tasks.external import External, HubRepository
from athanor.tasks.stage import CONVERSATIONS, Lifecycle, Stage, StageRun, Wanted

if TYPE_CHECKING:
    from athanor.tasks.preset_recipe import Preset

READ_BYTES_PER_S = {"hub": 10e6, "path": 40e6, "builtin": 4e6}  # of text
DOCUMENT_BYTES = {"hub": 4000, "path": 4000, "builtin": 200}  # where max_documents bounds a source
UNBOUNDED_TEXT_BYTES = 4e6  # of built-in text without max_bytes
DOCUMENTS_SHARE = 0.4  # bytes on disk for a byte of text


class AcquireRecipe(Recipe):
    """What fixes a source's text. Where a local file lies is not part of it; its content is."""

    source: ChatSourceRecipe | SourceRecipe = Field(exclude=True)
    asked: dict[str, Any]
    identity: dict[str, Any]

    @classmethod
    def of(cls, source: SourceRecipe) -> AcquireRecipe:
        """The recipe of a source. Raises UserError if its local files are missing."""
        asked = source.model_dump(mode="json", exclude={"path"}, exclude_none=True)
        return cls(source=source, asked=asked, identity=source_identity(source))


def wanted(life: Lifecycle) -> Iterator[Wanted]:
    """The documents of every pretraining source; those of the conversations are there for `chat`."""
    for name, source in life.preset.data.sources.items():
        yield Wanted(name, _label(source), AcquireRecipe.of(source))
    if life.preset.sft is not None:
        source = life.preset.sft.source
        yield Wanted(CONVERSATIONS, f"{_label(source)}-chat", AcquireRecipe.of(source), on_request=True)


def external(preset: Preset) -> Iterator[External]:
    """Every source: its files, or its data set on the hub."""
    sources: dict[str, tuple[str, SourceRecipe]] = {
        name: (f"data.sources.{name}", source) for name, source in preset.data.sources.items()
    }
    if preset.sft is not None:
        sources[CONVERSATIONS] = (CONVERSATIONS, preset.sft.source)
    for member, (field, source) in sources.items():
        yield External(field, (member,), lambda source=source: _check(source), lambda source=source: _on_hub(source))


def cost(recipe: AcquireRecipe, preset: Preset) -> Cost:
    """Reading once the text that the source is bounded to."""
    origin = next(name for name in ORIGINS if getattr(recipe.source, name) is not None)
    return passing_over(_text_bytes(recipe, origin), READ_BYTES_PER_S[origin], DOCUMENTS_SHARE)


def build(recipe: AcquireRecipe, run: StageRun) -> dict:
    """Read a source into Parquet documents, rejecting and counting what cannot be used."""
    return write_documents(recipe.source, run.out, run.progress)


def _label(source: SourceRecipe) -> str:
    return source.builtin or (source.hub or "files").rpartition("/")[2].lower()


def _check(source: SourceRecipe) -> None:
    files = AcquireRecipe.of(source).identity.get("files")
    if files is not None and not sum(file["bytes"] for file in files):
        raise UserError(f"{source.path}: holds nothing; give files with text")


def _on_hub(source: SourceRecipe) -> Iterator[HubRepository]:
    if source.hub is not None:
        yield HubRepository("dataset", source.hub, source.hub_revision, streamed=True)


def _text_bytes(recipe: AcquireRecipe, origin: str) -> float | None:
    """UTF-8 bytes of the documents; None where only reading them tells."""
    source = recipe.source
    known: list[float | None] = [source.max_bytes]
    if source.max_documents is not None:
        known.append(source.max_documents * DOCUMENT_BYTES[origin])
    match origin:
        case "builtin":
            known.append(UNBOUNDED_TEXT_BYTES)
        case "path":
            known.append(sum(file["bytes"] for file in recipe.identity["files"]))
        case "hub":
            pass
    return min((size for size in known if size is not None), default=None)


STAGE = Stage("acquire", part="data", wanted=wanted, external=external, cost=cost, build=build)

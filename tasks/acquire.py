"""Stage `acquire`: one source becomes documents on disk, split into training and held-out text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from pydantic import Field

from athanor.core.numbers import share, size
from athanor.core.recipe import Recipe
from athanor.data.data_recipe import ChatSourceRecipe, SourceRecipe
from athanor.data.documents import check_first_records, write_documents
from athanor.data.hub_access import Repository
from athanor.data.sources.source import source_of
from athanor.reports.intervals import LEAST_N
from athanor.tasks.cost import Cost, passing_over
from athanor.tasks.external import External
from athanor.tasks.stage import CONVERSATIONS, Foreseen, Lifecycle, Stage, StageRun, Wanted

if TYPE_CHECKING:
    from athanor.tasks.preset_recipe import Preset

LEAST_HELD_OUT_BYTES = 20_000  # below, bits per byte say little whatever they are
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
    for name, source in life.preset.sources.items():
        yield Wanted(name, name, AcquireRecipe.of(source))
    if life.preset.sft is not None:
        yield Wanted(CONVERSATIONS, CONVERSATIONS, AcquireRecipe.of(life.preset.sft.source), on_request=True)


def external(preset: Preset) -> Iterator[External]:
    """Every source: its files, or its data set on the hub."""
    sources: dict[str, tuple[str, SourceRecipe]] = {
        name: (f"data.sources.{name}", source) for name, source in preset.sources.items()
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


def foresee(recipe: AcquireRecipe, preset: Preset) -> Iterator[Foreseen]:
    """The files that are passed over; where the text is known to be short, that too little of it is held out to judge
    a model by."""
    source, fraction = source_of(recipe.source), recipe.source.held_out_fraction
    if (passed_over := source.passed_over(recipe.source)).files:
        yield Foreseen(f"{source.title(recipe.source)}: {passed_over.text}", passed_over.unexpected)
    text_bytes = source.text_bytes(recipe.source, recipe.identity)
    if text_bytes is not None and 0 < fraction * text_bytes < LEAST_HELD_OUT_BYTES:
        yield Foreseen(f"{source.title(recipe.source)}: {_too_little(f'about {size(fraction * text_bytes)}')}", True)


def build(recipe: AcquireRecipe, run: StageRun) -> dict:
    """Read a source into Parquet documents, rejecting and counting what cannot be used."""
    facts = write_documents(recipe.source, run.out, run.progress)
    run.log(held_out_text(facts))
    if bad := facts["rejected"]:
        of_all = share(bad / (bad + facts["documents"]))
        run.log(f"{bad:,} bad records left out ({of_all} of all); rejects.jsonl of the artifact says why")
    if (passed_over := source_of(recipe.source).passed_over(recipe.source)).files:
        run.log(passed_over.text)
        facts["files_passed_over"] = passed_over.files
    return facts


def held_out_text(facts: Mapping[str, Any]) -> str:
    """What a source's documents hold out of what was asked for, and whether that is enough to judge by."""
    documents, held_out_bytes = facts["held_out_documents"], facts["held_out_bytes"]
    asked_bytes = facts["held_out_asked_bytes"]
    said = f"{documents:,} documents, {size(held_out_bytes)} of {size(facts['text_bytes'])}"
    said += f" ({size(asked_bytes)} asked for)" if asked_bytes else ""
    if (file := facts.get("held_out_end_of")) is not None:
        said += f", the end of {file}, whose beginning is trained on"
    if (copies := facts.get("held_out_copies")) is not None:
        said += f"; {copies:,} copies of these were left out"
    if (duplicates := facts.get("duplicate_documents")) is not None:
        said += f"; {duplicates:,} documents ({size(facts['duplicate_bytes'])}) repeat the text of others"
    few = documents < LEAST_N or held_out_bytes < LEAST_HELD_OUT_BYTES
    return _too_little(said, facts["documents"]) if few and (asked_bytes or held_out_bytes) else f"held out {said}"


def _too_little(held_out: str, documents: int | None = None) -> str:
    """`documents`: in all, where that is known; of fewer than are to be held out no larger share would help."""
    remedy = "more text, or a larger held_out_fraction"
    if documents is not None and documents <= LEAST_N:
        remedy = f"more than {LEAST_N} documents, such as one a line of a .jsonl"
    return (
        f"held out {held_out}: too little to judge a model by (less than {LEAST_N} documents or "
        f"{size(LEAST_HELD_OUT_BYTES)}); give {remedy}"
    )


def _check(source: SourceRecipe) -> None:
    AcquireRecipe.of(source)
    check_first_records(source)


def _repositories(source: SourceRecipe) -> Iterator[Repository]:
    if (repository := source_of(source).repository(source)) is not None:
        yield repository


STAGE = Stage(
    "acquire",
    part="data",
    wanted=wanted,
    external=external,
    cost=cost,
    build=build,
    foresee=foresee,
    shares=True,
)

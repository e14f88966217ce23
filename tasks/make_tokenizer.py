"""Stage `tokenizer`: load a tokenizer, or train one on the sources in the proportions of the mixture."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from athanor.core.keys import sha256_file
from athanor.core.recipe import Recipe
from athanor.core.store import Artifact
from athanor.data.data_recipe import TokenizerRecipe
from athanor.data.documents import read_documents
from athanor.data.hub_access import Repository
from athanor.data.hub_commits import commit_of
from athanor.tasks.cost import Cost, passing_over
from athanor.tasks.external import External
from athanor.tasks.stage import Lifecycle, Stage, StageRun, Wanted

if TYPE_CHECKING:
    from athanor.tasks.preset_recipe import Preset

TRAIN_BYTES_PER_S = 1e6  # of text


class TokenizerStageRecipe(Recipe):
    """What fixes a tokenizer: the content of a loaded file, or the training settings and proportions."""

    tokenizer: TokenizerRecipe = Field(exclude=True)
    conversations: bool = Field(exclude=True, description="Whether chat will need its tags: refused early, or the same")
    asked: dict[str, Any]
    sha256: str | None = Field(default=None, description="Of a loaded file")
    commit: str | None = Field(default=None, description="Of the hub's model it is loaded from")
    proportions: dict[str, float] | None = Field(default=None, description="Share of the training text by source")

    @classmethod
    def of(
        cls, tokenizer: TokenizerRecipe, proportions: dict[str, float] | None, *, conversations: bool
    ) -> TokenizerStageRecipe:
        """The recipe; `proportions` of one that is trained. Raises UserError if a tokenizer file is missing."""
        trained = _is_trained(tokenizer)
        unused = {"path"} if trained else {"path", "vocab_size", "train_bytes"}
        return cls(
            tokenizer=tokenizer,
            conversations=conversations,
            asked=tokenizer.model_dump(mode="json", exclude=unused, exclude_none=True),
            sha256=sha256_file(_file(tokenizer.path)) if tokenizer.path is not None else None,
            commit=commit_of(_repository(tokenizer)) if tokenizer.hub is not None else None,
            proportions=proportions,
        )

    @property
    def pinned(self) -> TokenizerRecipe:
        """The tokenizer, at the commit."""
        return self.tokenizer.model_copy(update={"hub_revision": self.commit or self.tokenizer.hub_revision})


def wanted(life: Lifecycle) -> Iterator[Wanted]:
    """The tokenizer that every later stage uses."""
    asked = life.preset.tokenizer
    trained = _is_trained(asked)
    proportions = life.preset.mixture.start if trained else None
    recipe = TokenizerStageRecipe.of(asked, proportions, conversations=life.preset.sft is not None)
    documents = life.all("acquire") if trained else {}
    yield Wanted("tokenizer", _label(asked), recipe, {"documents": documents})


def external(preset: Preset) -> Iterator[External]:
    """The file or the hub's model it is loaded from."""
    path, hub = preset.tokenizer.path, preset.tokenizer.hub
    conversations = preset.sft is not None
    if path is not None:
        yield External("tokenizer", ("tokenizer",), lambda: _check(_file(path), conversations))
    if hub is not None:
        repository = _repository(preset.tokenizer)
        check = lambda: _check(_cached_file(hub, commit_of(repository) or repository.revision), conversations)  # noqa: E731
        yield External("tokenizer", ("tokenizer",), check, lambda: [repository])


def cost(recipe: TokenizerStageRecipe, preset: Preset, *, documents: dict[str, Cost]) -> Cost:
    """Reading the text it is trained on."""
    return passing_over(preset.tokenizer.train_bytes if recipe.proportions else 0.0, TRAIN_BYTES_PER_S, 0.0)


def vocabulary_size(path: str) -> int:
    """Ids of the tokenizer that `tokenizer.path` means, before it is an artifact. UserError if it is none."""
    from athanor.data.tokenizer import check_tokenizer_file

    return check_tokenizer_file(_file(path), conversations=False)


def build(recipe: TokenizerStageRecipe, run: StageRun, *, documents: dict[str, Artifact]) -> dict:
    """Write `tokenizer.json` with its end-of-document id and the bytes each id stands for."""
    from athanor.data.tokenizer import build_tokenizer, check_chat_tags, load_tokenizer

    facts = build_tokenizer(recipe.pinned, _training_text(recipe, documents), run.out)
    if recipe.conversations:
        check_chat_tags(load_tokenizer(run.out).token_id, f"tokenizer ({facts['origin']})")
    if switched_off := facts.get("switched_off"):
        run.log(f"tokenizer: switched off {', '.join(switched_off)}, so that equal texts have equal tokens")
    return facts


def _check(file: Path | None, conversations: bool) -> None:
    """Raise UserError for a file that the stage would refuse; one that is not here yet is judged when it is."""
    from athanor.data.tokenizer import check_tokenizer_file

    if file is not None:
        check_tokenizer_file(file, conversations=conversations)


def _cached_file(hub: str, revision: str | None) -> Path | None:
    from athanor.data.tokenizer import cached_tokenizer_file

    return cached_tokenizer_file(hub, revision)


def _file(path: str) -> Path:
    from athanor.data.tokenizer import tokenizer_file

    return tokenizer_file(path)


def _training_text(recipe: TokenizerStageRecipe, documents: dict[str, Artifact]) -> Iterator[str]:
    total = sum((recipe.proportions or {}).values())
    for source, artifact in sorted(documents.items()):
        left_bytes = recipe.tokenizer.train_bytes * (recipe.proportions or {})[source] / total
        for document in read_documents(artifact.path, "train"):
            if left_bytes <= 0:
                break
            left_bytes -= len(document.text.encode())
            yield document.text


def _repository(tokenizer: TokenizerRecipe) -> Repository:
    return Repository("model", str(tokenizer.hub), tokenizer.hub_revision)


def _is_trained(tokenizer: TokenizerRecipe) -> bool:
    return tokenizer.path is None and tokenizer.hub is None


def _label(tokenizer: TokenizerRecipe) -> str:
    if tokenizer.hub is not None:
        return tokenizer.hub.rpartition("/")[2].lower()
    return "file" if tokenizer.path is not None else f"bpe-{tokenizer.vocab_size}"


STAGE = Stage("tokenizer", part="data", wanted=wanted, external=external, cost=cost, build=build)

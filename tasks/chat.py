"""Stage `chat`: conversations become token shards with a mask that marks what the model is trained to say."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from athanor.core.recipe import Recipe
from athanor.core.store import Artifact
from athanor.tasks.cost import Cost, tokenizing
from athanor.tasks.stage import CONVERSATIONS, Foreseen, Lifecycle, Stage, StageRun, Wanted

if TYPE_CHECKING:
    from athanor.tasks.preset_recipe import Preset


class ChatRecipe(Recipe):
    """Nothing but the conversations and the tokenizer decides the tokens; both are parents."""


def wanted(life: Lifecycle) -> Iterator[Wanted]:
    """The shards of the conversations, with SFT."""
    if life.preset.sft is not None:
        documents = life.one("acquire", CONVERSATIONS)
        inputs = {"documents": documents, "tokenizer": life.one("tokenizer")}
        yield Wanted("chat", documents.label, ChatRecipe(), inputs)


def cost(recipe: ChatRecipe, preset: Preset, *, documents: Cost, tokenizer: Cost) -> Cost:
    """Reading the conversations once."""
    return tokenizing(documents)


def foresee(
    recipe: ChatRecipe, preset: Preset, *, tokenizer: Artifact | None = None, **inputs: Any
) -> Iterable[Foreseen]:
    """Nothing but the UserError of a tokenizer that was built for text alone and cannot hold the chat template."""
    from athanor.data.tokenizer import check_tokenizer_file

    if tokenizer is not None:
        check_tokenizer_file(tokenizer.file("tokenizer.json"), conversations=True)
    return ()


def build(recipe: ChatRecipe, run: StageRun, *, documents: Artifact, tokenizer: Artifact) -> dict:
    """Encode conversations as ChatML, marking the assistant's tokens by their spans."""
    from athanor.data.chatml import write_chat_shards

    return write_chat_shards(documents.path, tokenizer.path, run.out, run.progress)


STAGE = Stage("chat", part="sft", wanted=wanted, cost=cost, build=build, foresee=foresee, shares=True)

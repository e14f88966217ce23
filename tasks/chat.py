"""Stage `chat`: conversations become token shards with a mask that marks what the model is trained to say."""

from __future__ import annotations

from athanor.core.recipe import Recipe
from athanor.core.store import Artifact
from athanor.tasks.stage import StageRun, stage


class ChatRecipe(Recipe):
    """Nothing but the conversations and the tokenizer decides the tokens; both are parents."""


@stage("chat")
def chat(recipe: ChatRecipe, run: StageRun, *, documents: Artifact, tokenizer: Artifact) -> dict:
    """Encode conversations as ChatML, marking the assistant's tokens by their spans."""
    from athanor.data.chatml import write_chat_shards

    return write_chat_shards(documents.path, tokenizer.path, run.out, run.progress)

"""Stage `chat`: conversations become token shards with a mask that marks what the model is trained to say."""

from __future__ import annotations

from data.chat import write_chat_shards
from data.config import Recipe
from data.store import Artifact
from tasks.stage import StageRun, stage


class ChatRecipe(Recipe):
    """Nothing but the conversations and the tokenizer decides the tokens; both are parents."""


@stage("chat")
def chat(recipe: ChatRecipe, run: StageRun, *, documents: Artifact, tokenizer: Artifact) -> dict:
    """Encode conversations as ChatML, marking the assistant's tokens by their spans."""
    return write_chat_shards(documents.path, tokenizer.path, run.out, run.progress)

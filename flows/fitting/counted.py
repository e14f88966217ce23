"""How many tokens the text has: a tokenizer of each vocabulary in question is trained on the sample, and counts it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

from athanor.core.errors import UserError
from athanor.data.chatml import encode_conversation
from athanor.data.data_recipe import TokenizerRecipe
from athanor.data.tokenizer import build_tokenizer, load_tokenizer
from athanor.flows.fitting.given import Given

MOST_LOST = 0.03  # of the conversations' tokens, in rows of the length chosen; above 0.05 fine-tuning is refused
LONGEST_ROW = 8192


@dataclass(frozen=True)
class Conversations:
    """`tokens` of all, estimated from a sample, and the row length, a power of two, that loses hardly any."""

    tokens: float
    row_tokens: int


@dataclass(frozen=True)
class Counted:
    """With one vocabulary: of the texts and, if there are some, of the conversations."""

    vocab_size: int
    bytes_per_token: float
    document_tokens: float  # the median
    conversations: Conversations | None


class Counter:
    """Counts the text with any vocabulary, each once."""

    def __init__(self, sources: Mapping[str, Given], chat: Given | None):
        self._texts = [text for source in sources.values() for text in source.sample]
        self._chat = chat
        self._known: dict[int, Counted] = {}

    def with_vocabulary(self, vocab_size: int) -> Counted:
        """UserError for conversations that fit no row."""
        if vocab_size not in self._known:
            self._known[vocab_size] = self._count(vocab_size)
        return self._known[vocab_size]

    def _count(self, vocab_size: int) -> Counted:
        with TemporaryDirectory(prefix="athanor-tokenizer-") as folder:
            build_tokenizer(TokenizerRecipe(vocab_size=vocab_size), iter(self._texts), Path(folder))
            tokenizer = load_tokenizer(Path(folder))
        lengths = [len(ids) + 1 for ids in tokenizer.encode_batch(self._texts)]
        text_bytes = sum(len(text.encode()) for text in self._texts)
        chat = None
        if self._chat is not None:
            turns = [len(encode_conversation(json.loads(text), tokenizer)[0]) for text in self._chat.sample]
            share = sum(len(text.encode()) for text in self._chat.sample) / self._chat.text_bytes
            chat = Conversations(sum(turns) / min(1.0, share), _row_tokens(turns))
        return Counted(vocab_size, text_bytes / sum(lengths), median(lengths), chat)


def _row_tokens(lengths: list[int]) -> int:
    row = 128
    while sum(max(0, length - row) for length in lengths) > MOST_LOST * sum(lengths):
        row *= 2
        if row > LONGEST_ROW:
            raise UserError(f"--chat: conversations are longer than {LONGEST_ROW:,} tokens; split them")
    return row

"""Chat in the ChatML form, and what of it is learned.

A conversation is, per message, `<|im_start|>role\\n`, the content, `<|im_end|>\\n`; after the last message comes EOS.
Each of these pieces is tokenized on its own, so a prompt's ids are a prefix of the conversation's, and what is learned
is known from the pieces, never by searching the ids: an assistant's content, its `<|im_end|>\\n`, and the EOS if an
assistant message comes last (so that the model stops whichever end it is sampled to); nothing of one of weight 0.

The tags are the ids of `<|im_start|>` and `<|im_end|>`, which no content can produce. A tokenizer that lacks them
(GPT-2) is refused: tags in plain text could be typed by a user, whose words would become a system turn or an answer.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from athanor.core.errors import UserError
from athanor.core.progress import Progress, silent
from athanor.data.documents import Document
from athanor.data.shards import Encoded, shards_header, write_splits
from athanor.data.sources.conversations import ROLES, is_learned
from athanor.data.tokenizer import IM_END, IM_START, Tokenizer, check_chat_tags, load_tokenizer

Message = Mapping[str, str]
Piece = tuple[list[int], bool]  # ids, and whether they are learned
_PIECES_A_MESSAGE = 3


def render_prompt(messages: Sequence[Message]) -> str:
    """The text of a conversation up to where the assistant is to answer: ends with `<|im_start|>assistant\\n`."""
    turns = (f"{IM_START}{m['role']}\n{m['content']}{IM_END}\n" for m in messages)
    return "".join(turns) + f"{IM_START}assistant\n"


def encode_prompt(messages: Sequence[Message], tokenizer: Tokenizer) -> list[int]:
    """Ids of `render_prompt(messages)`; tags typed inside a message stay text. Raises UserError for a bad message."""
    (pieces,) = _pieces([messages], tokenizer)
    return [i for ids, _ in pieces for i in ids] + _Tags(tokenizer).header["assistant"]


def answer_ends(tokenizer: Tokenizer) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """What ends an assistant's answer, as text and as ids: its end tag. Raises UserError if the tokenizer lacks it."""
    return (IM_END,), (_Tags(tokenizer).footer[0],)


def encode_conversation(messages: Sequence[Message], tokenizer: Tokenizer) -> tuple[list[int], list[int]]:
    """(ids with EOS last, mask: 1 = the token is learned). Raises UserError for a bad message."""
    ((ids, mask),) = _joined([messages], _pieces([messages], tokenizer), tokenizer)
    return ids, mask


def write_chat_shards(
    documents_dir: Path, tokenizer_dir: Path, out: Path, progress: Progress = silent
) -> dict[str, Any]:
    """Encode a documents artifact of conversations into masked token shards; resumable, as `write_shards`.

    Returns its facts. Raises UserError for a bad message, and for a content that its tokens do not stand for (every one
    by its bytes, the first of each batch by decoding it again), naming where it came from.
    """
    tokenizer = load_tokenizer(tokenizer_dir)

    def encode(documents: Sequence[Document]) -> list[Encoded]:
        conversations = [json.loads(d.text) for d in documents]
        for conversation, document in zip(conversations, documents, strict=True):
            _check(conversation, document.ref)
        pieces = _pieces(conversations, tokenizer)
        normalized = _prove(conversations, pieces, [document.ref for document in documents], tokenizer)
        return [
            Encoded(np.array(ids, np.uint32), len(document.text.encode()), np.array(mask, np.uint8), characters)
            for (ids, mask), document, characters in zip(
                _joined(conversations, pieces, tokenizer), documents, normalized, strict=True
            )
        ]

    return write_splits(documents_dir, encode, shards_header(tokenizer, "chat"), out, progress=progress)


class _Tags:
    """Ids of what surrounds a message's content. Raises UserError if the tokenizer lacks the tags."""

    def __init__(self, tokenizer: Tokenizer):
        check_chat_tags(tokenizer.token_id, "the tokenizer")
        start_id, end_id = tokenizer.token_id(IM_START), tokenizer.token_id(IM_END)
        assert start_id is not None and end_id is not None
        self.header = {role: [start_id, *tokenizer.encode(f"{role}\n")] for role in ROLES}
        self.footer = [end_id, *tokenizer.encode("\n")]


def _joined(
    conversations: Sequence[Sequence[Message]], pieces_of: Sequence[list[Piece]], tokenizer: Tokenizer
) -> list[tuple[list[int], list[int]]]:
    """(ids with EOS last, mask) of each conversation."""
    encoded = []
    for messages, pieces in zip(conversations, pieces_of, strict=True):
        ended = [*pieces, ([tokenizer.eos_id], is_learned(messages[-1]))]
        ids = [i for piece, _ in ended for i in piece]
        mask = [int(learned) for piece, learned in ended for _ in piece]
        encoded.append((ids, mask))
    return encoded


def _prove(
    conversations: Sequence[Sequence[Message]],
    pieces_of: Sequence[list[Piece]],
    refs: Sequence[str],
    tokenizer: Tokenizer,
) -> list[int]:
    """By conversation the characters that NFC replaced in its contents. Raises UserError where a text is lost."""
    normalized = []
    for n, (messages, pieces) in enumerate(zip(conversations, pieces_of, strict=True)):
        contents = (ids for ids, _ in pieces[1::_PIECES_A_MESSAGE])
        normalized.append(
            sum(
                tokenizer.prove(message["content"], ids, f"{refs[n]}, message {m}", decode=n == 0)
                for m, (message, ids) in enumerate(zip(messages, contents, strict=True))
            )
        )
    return normalized


def _pieces(conversations: Sequence[Sequence[Message]], tokenizer: Tokenizer) -> list[list[Piece]]:
    """Per conversation, of each message its header, content and footer, without EOS; all contents go to the tokenizer
    as one batch."""
    for messages in conversations:
        _check(messages, "messages")
    tags = _Tags(tokenizer)
    contents = iter(tokenizer.encode_batch([m["content"] for messages in conversations for m in messages]))
    result = []
    for messages in conversations:
        pieces: list[Piece] = []
        for message in messages:
            learned = is_learned(message)
            pieces += [(tags.header[message["role"]], False), (next(contents), learned), (tags.footer, learned)]
        result.append(pieces)
    return result


def _check(messages: Sequence[Message], where: str) -> None:
    if not messages:
        raise UserError(f"{where}: an empty conversation; it needs at least one message")
    for n, message in enumerate(messages):
        if message.get("role") not in ROLES or not isinstance(message.get("content"), str):
            raise UserError(
                f"{where}: message {n} is {str(dict(message))[:80]!r}; it needs a role of {', '.join(ROLES)} and a text"
            )

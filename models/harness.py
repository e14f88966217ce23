"""A portable checkpoint as an lm-eval model: scores continuations, scores whole texts, generates until a stop string.

Three rules hold whatever the batch. A row's result does not depend on the rows beside it: rows are
padded on the right, the padding is a document of its own. Every token of a scored text is predicted
exactly once, with at most `max_seq_len` tokens before it. Text never turns into special tokens: only a
`ChatPrompt`, built here from messages, carries them, as ids made beside its text and not from it.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from lm_eval.api.instance import Instance
from lm_eval.api.model import LM
from lm_eval.models.utils import normalize_gen_kwargs

from data.errors import UserError
from data.progress import Progress, silent
from data.tokenizers import Tokenizer
from models.generate import generate
from models.skeleton import LanguageModel

LOGITS_AT_ONCE = 1 << 26  # values held while scoring: 256 MiB of fp32 whatever the vocabulary
ROUND_TOKENS = 64  # tokens generated between two looks for stop strings

Ids = list[int]
Window = tuple[Ids, Ids]  # tokens read, tokens scored: the last len(scored) predictions


class ChatPrompt(str):
    """A rendered conversation that carries its own token ids.

    lm-eval hands prompts around as strings, and a string in which a user wrote `<|im_start|>` looks like
    one in which the template did. The ids are made from the messages, so the two stay apart.
    """

    ids: Ids

    def __new__(cls, text: str, ids: Ids) -> ChatPrompt:
        prompt = super().__new__(cls, text)
        prompt.ids = ids
        return prompt


def scoring_windows(context: Ids, continuation: Ids, max_tokens: int) -> Iterator[Window]:
    """Cuts a continuation into windows of at most `max_tokens` inputs that score each token once.

    The first window keeps the end of `context`; the last is filled up with what precedes it. `context`
    is never empty (EOS stands for nothing).
    """
    tokens = context + continuation
    for start in range(len(context), len(tokens), max_tokens):
        stop = min(start + max_tokens, len(tokens))
        yield tokens[max(0, stop - 1 - max_tokens) : stop - 1], tokens[start:stop]


def cut_at_stop(text: str, stops: Sequence[str]) -> tuple[str, bool]:
    """The text before the earliest stop string, and whether there was one."""
    found = [at for stop in stops if stop and (at := text.find(stop)) >= 0]
    return (text[: min(found)], True) if found else (text, False)

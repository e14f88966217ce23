"""Text is counted with a tokenizer trained on it; a row loses hardly any of the conversations."""

from __future__ import annotations

import argparse
import inspect
import json

import pytest

from athanor.core.errors import UserError
from athanor.flows.fitting.counted import Counter
from athanor.flows.fitting.given import Given

TEXTS = Given({}, 0.0, 0.0, tuple(map(inspect.getsource, (argparse.ArgumentParser, argparse.HelpFormatter))))


def conversation(words: int) -> str:
    turns = [{"role": "user", "content": "what?"}, {"role": "assistant", "content": " ".join(["xyz"] * words)}]
    return json.dumps(turns)


def test_a_larger_vocabulary_has_longer_tokens():
    counter = Counter({"code": TEXTS}, None)
    small, large = counter.with_vocabulary(300), counter.with_vocabulary(600)
    assert 1 < small.bytes_per_token < large.bytes_per_token
    mean_bytes = sum(map(len, TEXTS.sample)) / len(TEXTS.sample)
    assert large.document_tokens == pytest.approx(mean_bytes / large.bytes_per_token, rel=1e-6)
    assert counter.with_vocabulary(300) is small


def test_tokens_of_all_conversations_follow_from_those_of_the_sample_and_rows_are_long_enough():
    sample = tuple(conversation(words) for words in [10] * 97 + [200] * 3)
    chat = Given({}, 2.0 * sum(map(len, sample)), 0.0, sample)
    found = Counter({"code": TEXTS}, chat).with_vocabulary(300).conversations
    half = Counter({"code": TEXTS}, Given({}, chat.text_bytes / 2, 0.0, sample)).with_vocabulary(300).conversations
    assert found is not None and half is not None
    assert found.tokens == pytest.approx(2 * half.tokens)
    assert found.row_tokens > 128, "three of a hundred conversations are most of the tokens"


def test_conversations_that_fit_no_row_are_refused():
    with pytest.raises(UserError, match="longer than 8,192 tokens"):
        Counter({"code": TEXTS}, Given({}, 1e6, 0.0, (conversation(20_000),))).with_vocabulary(300)

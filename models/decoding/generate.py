"""Decoding: ragged prompts in one batch, cached, each row as if it were alone, and streamed as it is made.

Prompts are read packed, one after the other in a single row, so that no padding is computed; or padded on the left,
the padding being a document of its own, so that nothing of it is visible. Either leaves the same cache. `TokenStream`
is the one loop; `generate` collects its ids, `stream_text` turns them into text and ends rows at stop strings.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Literal

import torch
from torch import Tensor

from athanor.data.tokenizer import Tokenizer
from athanor.kernels.packed_row import PackedRow
from athanor.models.cache import Cache
from athanor.models.decoding.sampling import GREEDY, Sampling, row_keys
from athanor.models.decoding.stop_strings import AnswerText
from athanor.models.skeleton import LanguageModel

PromptLayout = Literal["packed", "left-padded"]


def generate(
    model: LanguageModel,
    prompts: Sequence[list[int]],
    *,
    max_new_tokens: int,
    eos_id: int,
    stop_ids: Sequence[int] = (),
    temperature: float = 0.0,
    top_k: int | None = None,
    top_p: float | None = None,
    min_p: float | None = None,
    seed: int = 0,
    layout: PromptLayout = "packed",
) -> list[list[int]]:
    """Continue each prompt; returns the new ids alone, without the one that stopped the row.

    A row ends at `eos_id`, at any of `stop_ids`, after `max_new_tokens`, or when prompt and answer fill max_seq_len.
    temperature 0 is greedy. `layout`, how the prompts are read, changes the time it takes and nothing else.
    ValueError for an empty prompt or one that leaves no room.
    """
    answers: list[list[int]] = [[] for _ in prompts]
    sampling = Sampling(temperature, top_k, top_p, min_p)
    stops = (eos_id, *stop_ids)
    for row, token in TokenStream(
        model, prompts, max_new_tokens=max_new_tokens, stop_ids=stops, sampling=sampling, seed=seed, layout=layout
    ):
        answers[row].append(token)
    return answers


def stream_text(
    model: LanguageModel,
    tokenizer: Tokenizer,
    prompts: Sequence[list[int]],
    *,
    max_new_tokens: int,
    stops: Sequence[str] = (),
    stop_ids: Sequence[int] = (),
    sampling: Sampling = GREEDY,
    seed: int = 0,
    first_row: int = 0,
) -> Iterator[tuple[int, str]]:
    """Continue each prompt; yields (row, piece) as soon as a piece of text is certain. Prompts that are continued in
    several batches are sampled as in one if `first_row` is the place of the batch's first.

    Rows end as in `generate`, and before the first of the strings `stops` that is complete, though it span tokens;
    no piece contains any of it.
    """
    stream = TokenStream(
        model,
        prompts,
        max_new_tokens=max_new_tokens,
        stop_ids=(tokenizer.eos_id, *stop_ids),
        sampling=sampling,
        seed=seed,
        first_row=first_row,
    )
    texts = [AnswerText(tokenizer.decode, stops) for _ in prompts]
    for row, token in stream:
        if piece := texts[row].add(token):
            yield row, piece
        if texts[row].stopped:
            stream.close(row)
    for row, text in enumerate(texts):
        if piece := text.rest():
            yield row, piece


class TokenStream:
    """The answers to a batch of prompts, as an iterator of (row, id); `close` ends a row before its time."""

    def __init__(
        self,
        model: LanguageModel,
        prompts: Sequence[list[int]],
        *,
        max_new_tokens: int,
        stop_ids: Sequence[int],
        sampling: Sampling,
        seed: int,
        first_row: int = 0,
        layout: PromptLayout = "packed",
    ):
        limit = model.recipe.max_seq_len
        for row, prompt in enumerate(prompts):
            if not 1 <= len(prompt) < limit:
                raise ValueError(f"prompt {row} has {len(prompt)} tokens; 1 to {limit - 1} are possible")
        self._model = model
        self._prompts = prompts
        self._room = [min(max_new_tokens, limit - len(prompt)) for prompt in prompts]
        self._stop_ids = frozenset(stop_ids)
        self._sampling = sampling
        self._layout = layout
        self._key_B = row_keys(seed, len(prompts), model.embedding.weight.device, first_row)
        self._open = {row for row, tokens in enumerate(self._room) if tokens > 0}

    def close(self, row: int) -> None:
        """No further id of this row."""
        self._open.discard(row)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        # A gate over the whole row would see the padding: without a cache each row is decoded by itself.
        group = len(self._prompts) if self._model.cacheable else 1
        for start in range(0, len(self._prompts), max(1, group)):
            yield from self._decode(range(start, min(start + group, len(self._prompts))))

    def _decode(self, rows: range) -> Iterator[tuple[int, int]]:
        model, key_B = self._model, self._key_B[rows.start : rows.stop]
        prompts = self._prompts[rows.start : rows.stop]
        cache, next_B, pad_B1 = None, key_B[:0], PackedRow(tuple(map(len, prompts))).padding(key_B.device)
        text = list(prompts[0])
        token_number = 0
        while self._open.intersection(rows):
            with _evaluating(model):
                if cache is not None:
                    h_BD = model.hidden(next_B[:, None], pad_B1, cache=cache)[:, -1]
                elif model.cacheable:
                    h_BD, cache = self._read(prompts, pad_B1)
                else:
                    h_BD = model.hidden(torch.tensor([text], device=key_B.device))[:, -1]
                next_B = self._sampling.next_ids(model.logits(h_BD), key_B, token_number)
            token_number += 1
            text.append(int(next_B[0]))
            for row, token in zip(rows, next_B.tolist(), strict=True):
                if row not in self._open:
                    continue
                if token in self._stop_ids:
                    self.close(row)
                    continue
                if token_number == self._room[row]:
                    self.close(row)
                yield row, token

    def _read(self, prompts: Sequence[list[int]], pad_B1: Tensor) -> tuple[Tensor, Cache]:
        """Hidden states `[B, D]` of the prompts' last tokens, and the cache that holds the prompts."""
        longest = max(map(len, prompts))
        if self._layout == "packed" and len(min(prompts, key=len)) < longest:
            return self._model.prefill(prompts)
        ids_BT = torch.tensor([[0] * (longest - len(prompt)) + prompt for prompt in prompts], device=pad_B1.device)
        position_T = torch.arange(longest, device=pad_B1.device)
        cache = self._model.new_cache(len(prompts))
        doc_start_BT = torch.where(position_T >= pad_B1, pad_B1, 0)
        return self._model.hidden(ids_BT, doc_start_BT, cache=cache)[:, -1], cache


@contextmanager
def _evaluating(model: LanguageModel) -> Iterator[None]:
    """Eval mode without gradient for one step, so that whoever consumes the stream keeps the modes they set."""
    training = model.training
    if training:
        model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        if training:
            model.train()

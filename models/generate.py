"""Decoding: ragged prompts in one batch, cached, each row as if it were alone.

Prompts are padded on the left; the padding is a document of its own, so nothing of it is visible. Sampling noise
is a function of (seed, row, token number), the same on every device.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from kernels.noise import gumbel, hash_bits
from models.skeleton import LanguageModel


def generate(
    model: LanguageModel,
    prompts: list[list[int]],
    *,
    max_new_tokens: int,
    eos_id: int,
    stop_ids: Sequence[int] = (),
    temperature: float = 0.0,
    top_k: int | None = None,
    top_p: float | None = None,
    seed: int = 0,
) -> list[list[int]]:
    """Continue each prompt; returns the new ids alone, without the one that stopped the row.

    A row ends at `eos_id`, at any of `stop_ids`, after `max_new_tokens`, or when prompt and answer fill max_seq_len.
    temperature 0 is greedy. ValueError for an empty prompt or one that leaves no room.
    """
    limit = model.recipe.max_seq_len
    for row, prompt in enumerate(prompts):
        if not 1 <= len(prompt) < limit:
            raise ValueError(f"prompt {row} has {len(prompt)} tokens; 1 to {limit - 1} are possible")
    if not prompts:
        return []
    device = model.embedding.weight.device
    key_B = hash_bits(torch.tensor([seed], device=device), 0, len(prompts))[0]
    sampler = _Sampler(temperature, top_k, top_p)
    stops = {eos_id, *stop_ids}
    # A gate over the whole row would see the padding: without a cache each row is decoded by itself.
    group = len(prompts) if model.cacheable else 1
    training = model.training
    model.eval()
    answers: list[list[int]] = []
    try:
        with torch.no_grad():
            for start in range(0, len(prompts), group):
                rows = slice(start, start + group)
                answers += _decode(model, prompts[rows], key_B[rows], max_new_tokens, stops, sampler)
    finally:
        model.train(training)
    return answers


@dataclass(frozen=True)
class _Sampler:
    temperature: float
    top_k: int | None
    top_p: float | None

    def __call__(self, logits_BV: Tensor, key_B: Tensor, token_number: int) -> Tensor:
        """The next id of each row, int64 `[B]`: the Gumbel maximum of the kept logits."""
        if self.temperature == 0.0:
            return logits_BV.argmax(-1)
        logits_BV = logits_BV.float() / self.temperature
        if self.top_k is not None:
            kept = logits_BV.topk(min(self.top_k, logits_BV.shape[-1])).values[:, -1:]
            logits_BV = logits_BV.masked_fill(logits_BV < kept, -math.inf)
        if self.top_p is not None:
            ordered_BV, index_BV = logits_BV.sort(descending=True)
            probability_BV = ordered_BV.softmax(-1)
            beyond_BV = probability_BV.cumsum(-1) - probability_BV >= self.top_p
            beyond_BV[:, 0] = False
            logits_BV = logits_BV.masked_fill(beyond_BV.gather(1, index_BV.argsort(-1)), -math.inf)
        return (logits_BV + gumbel(key_B, token_number, logits_BV.shape[-1])).argmax(-1)


def _decode(
    model: LanguageModel,
    prompts: list[list[int]],
    key_B: Tensor,
    max_new_tokens: int,
    stops: set[int],
    sampler: _Sampler,
) -> list[list[int]]:
    ids_BT, pad_B1 = _left_padded(prompts, key_B.device)
    position_T = torch.arange(ids_BT.shape[1], device=key_B.device)
    doc_start_BT = torch.where(position_T >= pad_B1, pad_B1, 0)
    room = [min(max_new_tokens, model.recipe.max_seq_len - len(prompt)) for prompt in prompts]
    answers: list[list[int]] = [[] for _ in prompts]
    open_rows = {row for row, tokens in enumerate(room) if tokens > 0}
    cache = model.new_cache(len(prompts)) if model.cacheable else None
    for token_number in range(max_new_tokens):
        h_BD = model.hidden(ids_BT, doc_start_BT, cache=cache)[:, -1]
        next_B = sampler(model.logits(h_BD), key_B, token_number)
        for row, token in enumerate(next_B.tolist()):
            if row not in open_rows:
                continue
            if token in stops:
                open_rows.discard(row)
                continue
            answers[row].append(token)
            if len(answers[row]) == room[row]:
                open_rows.discard(row)
        if not open_rows:
            break
        if cache is not None:
            ids_BT, doc_start_BT = next_B[:, None], pad_B1
        else:
            ids_BT = torch.cat((ids_BT, next_B[:, None]), dim=1)
            doc_start_BT = torch.zeros_like(ids_BT)
    return answers


def _left_padded(prompts: list[list[int]], device: torch.device) -> tuple[Tensor, Tensor]:
    """Ids `[B, longest]` padded with id 0 on the left, and the padding's length per row `[B, 1]`."""
    longest = max(map(len, prompts))
    ids_BT = torch.tensor([[0] * (longest - len(prompt)) + prompt for prompt in prompts], device=device)
    return ids_BT, torch.tensor([[longest - len(prompt)] for prompt in prompts], device=device)

"""Decoding that spends as many iterations on a token as it needs. For huginn models.

`adaptively` changes how a model's caches decode; whatever decodes within it, generate() or a benchmark, does so
unchanged:

    with adaptively(model, ExitRule("latent-diff", 0.03)):
        answers = generate(model, prompts, max_new_tokens=64, eos_id=eos)

Rows of a batch stop one by one, and a row that stopped keeps its state and its caches while others go on: its answer
is that of the row alone. `continuous` is the continuous chain of thought: a token decoded by itself starts from the
final state of the token before it, and not from noise; the tokens of a prompt start from noise.

`speculate` drafts with a few iterations and verifies all drafted tokens in one pass at full depth: the answers of
greedy decoding, in fewer deep passes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from athanor.core.errors import UserError
from athanor.models.cache import Cache
from athanor.models.families.huginn.cache import CoreCache
from athanor.models.families.huginn.decoding import DepthPolicy
from athanor.models.families.huginn.exit_criteria import ExitRule
from athanor.models.families.huginn.model import Huginn


@contextmanager
def adaptively(
    model: Huginn, exit: ExitRule | None = None, *, lookup: str = "latest", continuous: bool = False
) -> Iterator[None]:
    """Within: caches made by `model.new_cache` decode like that. UserError for a look-up that does not exist, and for
    `continuous` where the first state is all the core knows of a token."""
    if continuous and model.section.injection == "none":
        raise UserError("a continuous chain of thought needs a core that reads its tokens: huginn.injection is none")
    policy = DepthPolicy(exit, lookup, continuous)
    policy.new_cache(len(model.core.blocks))
    before, model.depth_policy = model.depth_policy, policy
    try:
        yield
    finally:
        model.depth_policy = before


def exit_steps(model: Huginn, cache: Cache) -> Tensor:
    """Iterations each cached position took, int64 `[B, S]`, padding included."""
    core = cache.layers[len(model.prelude)]
    assert isinstance(core, CoreCache)
    return torch.zeros(cache.rows, 0, dtype=torch.int64) if core.depth_BS is None else core.depth_BS


@torch.no_grad()
def speculate(
    model: Huginn,
    prompts: Sequence[list[int]],
    *,
    max_new_tokens: int,
    eos_id: int,
    draft_steps: int,
    lookahead: int = 8,
    stop_ids: Sequence[int] = (),
) -> list[list[int]]:
    """Greedy answers as `models.decoding.generate.generate` gives them; rows accept different numbers of drafted
    tokens, so each is decoded by itself. `draft_steps` iterations draft up to `lookahead` tokens. UserError unless both
    are at least 1, and within `adaptively(..., continuous=True)`, where a token cannot be verified beside the one
    before it.
    """
    if lookahead < 1:
        raise UserError(f"lookahead={lookahead} must be 1 or more")
    if model.depth_policy.continuous:
        raise UserError("speculative decoding and a continuous chain of thought exclude each other: choose one")
    training = model.training
    model.eval()
    try:
        stops = {eos_id, *stop_ids}
        return [_speculate(model, prompt, max_new_tokens, stops, draft_steps, lookahead) for prompt in prompts]
    finally:
        model.train(training)


def _speculate(
    model: Huginn, prompt: list[int], max_new_tokens: int, stops: set[int], draft_steps: int, lookahead: int
) -> list[int]:
    limit = model.recipe.max_seq_len
    if not 1 <= len(prompt) < limit:
        raise ValueError(f"a prompt has {len(prompt)} tokens; 1 to {limit - 1} are possible")
    room = min(max_new_tokens, limit - len(prompt))
    cache, answer = model.new_cache(1), []
    if len(prompt) > 1:
        _predicted(model, cache, prompt[:-1])
    newest = prompt[-1]  # the cache holds all before it
    while len(answer) < room:
        held, draft = cache.length, [newest]
        with model.recurring(draft_steps):
            for _ in range(min(lookahead, room - len(answer) - 1)):
                draft += _predicted(model, cache, draft[-1:])
        cache.rewind(held)
        verified = _predicted(model, cache, draft)
        agreed = next((i for i, (d, v) in enumerate(zip(draft[1:], verified, strict=False)) if d != v), len(draft) - 1)
        cache.rewind(held + agreed + 1)
        for token in verified[: agreed + 1]:
            if token in stops:
                return answer
            answer.append(token)
        newest = answer[-1]
    return answer


def _predicted(model: Huginn, cache: Cache, ids: list[int]) -> list[int]:
    """The likeliest token after each of `ids`, which the cache takes in."""
    device = model.embedding.weight.device
    return model(torch.tensor([ids], device=device), cache=cache)[0].argmax(-1).tolist()

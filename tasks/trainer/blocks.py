"""What is done to the blocks of a model for memory and speed; names, parameters and numbers stay as they are."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from models.skeleton import LanguageModel


def prepare_blocks(model: LanguageModel, recompute_blocks: int | None, compiled: bool) -> None:
    """Recompute the last of every `recompute_blocks` blocks in the backward pass; compile every block."""
    for number, block in enumerate(model.units(), start=1):
        if recompute_blocks is not None and number % recompute_blocks == 0:
            block.forward = _recomputing(block, block.forward)
        if compiled:
            block.compile()


def _recomputing(block: nn.Module, forward: Callable[..., Any]) -> Callable[..., Any]:
    def call(*args: Any, **kwargs: Any) -> Any:
        if not (block.training and torch.is_grad_enabled()):
            return forward(*args, **kwargs)
        return checkpoint(forward, *args, use_reentrant=False, preserve_rng_state=False, **kwargs)

    return call

"""Which backend computes the attention of a model's layers while it trains, for a run's log and for a plan."""

from __future__ import annotations

from collections import Counter

import torch

from athanor.kernels.attention_choice import Call, Heads, choose
from athanor.models.skeleton import LanguageModel


def heads_of(model: LanguageModel) -> list[Heads]:
    """Those of the layers that attend, which say so by `attention_heads`."""
    found = (getattr(module, "attention_heads", None) for module in model.modules())
    return [heads for heads in found if isinstance(heads, Heads)]


def attention_backends(model: LanguageModel, device: torch.device, dtype: torch.dtype) -> str:
    """One line: how many layers each backend computes, and why it is not another one."""
    choices = Counter(str(choose(Call.of_training(heads, device, dtype))) for heads in heads_of(model))
    return "; ".join(f"{layers} layers by {choice}" for choice, layers in choices.items())

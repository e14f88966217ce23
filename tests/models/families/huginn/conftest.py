"""Models of any depth, and what they decode."""

import pytest
import torch

from athanor.models.families.huginn.adaptive import exit_steps


@pytest.fixture
def model(lively_model):
    return lively_model("huginn")


@pytest.fixture
def deeper(lively_model):
    """A model that iterates that often."""
    ends = {"prelude_layers": 1, "coda_layers": 1, "backprop_depth": 1}
    return lambda steps, **section: lively_model("huginn", huginn={**ends, "mean_recurrence": steps, **section})


@pytest.fixture
def decoded():
    """Logits and steps of rows that come in pieces."""

    @torch.no_grad()
    def decode(model, ids, pieces, doc_start=None):
        cache, found, at = model.new_cache(len(ids)), [], 0
        for piece in pieces:
            starts = None if doc_start is None else doc_start[:, at : at + piece]
            found.append(model(ids[:, at : at + piece], starts, cache=cache))
            at += piece
        return torch.cat(found, dim=1), exit_steps(model, cache)

    return decode

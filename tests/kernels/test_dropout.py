"""Dropout leaves out its share by keys, streams and channels alone, and scales what is left."""

import pytest
import torch
from definitions import uniform

from athanor.kernels.dropout import dropout

KEYS = torch.tensor([[3, 99, -7], [12345, 4, 2**62]])


def test_it_is_its_formula():
    x = torch.randn(2, 3, 5, generator=torch.Generator().manual_seed(0)).double()
    found = dropout(x, KEYS, 6, 0.4)
    for b in range(2):
        for t in range(3):
            kept = [u >= 0.4 for u in uniform(int(KEYS[b, t]) % 2**64, 6, 5)]
            torch.testing.assert_close(found[b, t], x[b, t] / 0.6 * torch.tensor(kept))


def test_its_share_is_dropped_and_gradient_goes_where_values_do():
    x = torch.ones(1, 300, 100, requires_grad=True)
    found = dropout(x, torch.arange(300)[None], 0, 0.25)
    assert (found == 0).float().mean().item() == pytest.approx(0.25, abs=0.01)
    assert found.mean().item() == pytest.approx(1.0, abs=0.02)
    found.sum().backward()
    assert torch.equal(x.grad, found.detach())


def test_rows_keep_the_same_in_any_batch_and_streams_differ():
    x = torch.ones(2, 3, 50, dtype=torch.bfloat16)
    both = dropout(x, KEYS, 1, 0.5)
    assert both.dtype == torch.bfloat16
    assert torch.equal(both[1:], dropout(x[1:], KEYS[1:], 1, 0.5))
    assert not torch.equal(both, dropout(x, KEYS, 2, 0.5))

"""Running sums restart at documents, exactly and without looking ahead."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from athanor.kernels.prefix_sum import segment_cumsum

layouts = st.lists(st.integers(1, 6), min_size=1, max_size=5)


def starts(lengths):
    return torch.tensor([start for i, n in enumerate(lengths) for start in [sum(lengths[:i])] * n])[None]


def reference(x_BTC, start_BT):
    position = torch.arange(x_BTC.shape[1])
    member = (position[None, None] >= start_BT[:, :, None]) & (position[None, None] <= position[None, :, None])
    return member.to(x_BTC.dtype) @ x_BTC


@settings(max_examples=30, deadline=None)
@given(layouts)
def test_sums_and_gradients_equal_a_masked_matrix_product(lengths):
    start_BT = starts(lengths).expand(2, -1)
    x = torch.randn(2, sum(lengths), 3, requires_grad=True)
    weight = torch.randn(2, sum(lengths), 3)
    found, wanted = segment_cumsum(x, start_BT), reference(x, start_BT)
    torch.testing.assert_close(found, wanted)
    torch.testing.assert_close(
        torch.autograd.grad(found, x, weight), torch.autograd.grad(wanted, x, weight), atol=1e-5, rtol=1e-5
    )


def test_rows_may_have_different_layouts():
    start_BT = torch.cat((starts([2, 3, 1]), starts([1, 4, 1])))
    x = torch.randn(2, 6, 2)
    torch.testing.assert_close(segment_cumsum(x, start_BT), reference(x, start_BT))


def test_a_short_document_behind_a_long_one_loses_nothing():
    x = torch.randn(1, 5000, 4) + 10.0
    start_BT = starts([4998, 2])
    alone = segment_cumsum(x[:, 4998:], torch.zeros(1, 2, dtype=torch.int64))
    torch.testing.assert_close(segment_cumsum(x, start_BT)[:, 4998:], alone, atol=1e-6, rtol=1e-6)

"""A window's past: as many slots as the window and the sinks have, whatever was read; and the keys a query sees."""

import pytest
import torch
from visibility import visible_by_definition

from athanor.models.blocks.sliding_window import Window, WindowKeyValues, keys_seen
from athanor.models.cache import Cache
from athanor.models.skeleton import Context


def near(offset, length, window, sink, past):
    position_BT = torch.arange(offset, offset + length)[None]
    doc_start_BT = torch.zeros_like(position_BT)
    return Window.of(Context(offset, position_BT, doc_start_BT, None, None, Cache(1, [past])), window, sink)


@pytest.mark.parametrize(("window", "sink"), [(4, 2), (3, 0), (20, 1)])
def test_what_is_attended_to_is_what_is_visible_however_the_row_is_cut(window, sink):
    keys = torch.arange(1.0, 16.0).view(1, 15, 1, 1)
    visible = visible_by_definition([15], window, sink)
    past, at = WindowKeyValues(window, sink), 0
    for length in (5, 1, 1, 6, 2):
        one = near(at, length, window, sink, past)
        found = one.remember(past)(keys[:, at : at + length], keys[:, at : at + length])[0].flatten()
        for query, mask in enumerate(one.span.mask[0, 0]):
            assert sorted(found[mask].tolist()) == (visible[at + query].nonzero().flatten() + 1.0).tolist()
        at += length
        held = [tensor for tensor in vars(past).values() if isinstance(tensor, torch.Tensor)]
        assert [tensor.shape[1] for tensor in held] == [window + sink] * 2


def test_nothing_is_remembered_without_a_past():
    assert near(0, 3, 2, 1, None).remember(None) is None


@pytest.mark.parametrize(("length", "most"), [(7, 3), (7, 7), (7, 20), (40, 1)])
def test_the_keys_a_query_sees_on_average_are_those_counted(length, most):
    counted = visible_by_definition([length], most, 0).sum().item() / length
    assert keys_seen((length + 1) / 2, most) == pytest.approx(counted)

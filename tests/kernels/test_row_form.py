"""Any tensor whose rows lie at one distance has rows; others have none."""

import pytest
import torch

from athanor.kernels.row_form import Rows, common_rows, rows_of

X = torch.zeros(2, 3, 8)


@pytest.mark.parametrize(
    ("x", "rows"),
    [
        (X, Rows(6, 8, 8)),
        (X[..., 2:6], Rows(6, 4, 8)),
        (X[:, :2], None),
        (X[:, :1], Rows(2, 8, 24)),
        (X.transpose(1, 2), None),
        (X.expand(2, 3, 8)[..., :1], Rows(6, 1, 8)),
        (torch.zeros(3, 1).expand(3, 8), None),
        (torch.zeros(8).expand(3, 8), Rows(3, 8, 0)),
        (torch.zeros(8), Rows(1, 8, 8)),
        (X[:0], Rows(0, 8, 8)),
    ],
)
def test_rows(x, rows):
    assert rows_of(x) == rows


def test_contiguous_tensors_are_one_row_and_others_keep_their_strides():
    assert common_rows(X, X.clone()) == (1, 48, [0, 0])
    assert common_rows(X[..., :4], torch.zeros(2, 3, 4)) == (6, 4, [8, 4])

"""Grouped products equal one product a row; groups without rows cost and learn nothing."""

import torch
from torch.utils.flop_counter import FlopCounterMode

from athanor.kernels.grouped_matmul import grouped_matmul

SIZES = [3, 0, 7, 1]


def arguments():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(11, 6, generator=generator, requires_grad=True)
    return x, torch.randn(4, 5, 6, generator=generator, requires_grad=True)


def test_each_row_meets_the_matrix_of_its_group():
    x, weight = arguments()
    group = torch.repeat_interleave(torch.arange(4), torch.tensor(SIZES))
    torch.testing.assert_close(grouped_matmul(x, weight, SIZES), torch.einsum("nd,ned->ne", x, weight[group]))


def test_an_empty_group_gets_a_zero_gradient():
    x, weight = arguments()
    grouped_matmul(x, weight, SIZES).square().sum().backward()
    assert weight.grad[1].abs().max() == 0
    assert (weight.grad[[0, 2, 3]].abs().amax((1, 2)) > 0).all()


def test_work_follows_the_rows_and_not_the_groups():
    x, weight = arguments()
    with FlopCounterMode(display=False) as counter:
        grouped_matmul(x, weight, SIZES)
    assert counter.get_total_flops() == 2 * x.shape[0] * weight[0].numel()


@torch.no_grad()
def test_a_row_is_the_same_within_rounding_whatever_else_is_in_its_group():
    generator = torch.Generator().manual_seed(0)
    weight, x = torch.randn(1, 40, 24, generator=generator), torch.randn(80, 24, generator=generator)
    whole = grouped_matmul(x, weight, [80])
    rounding = 24 * torch.finfo(torch.float32).eps * (x.abs() @ weight[0].abs().T)
    for rows in range(1, 80):
        assert ((grouped_matmul(x[:rows], weight, [rows]) - whole[:rows]).abs() <= rounding[:rows]).all()

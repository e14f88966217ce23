"""What an operation moves and computes is what one counts by hand."""

from __future__ import annotations

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from athanor.models.op_cost import OpCost, op_cost

FP32, BF16, INT64, BOOL = 4, 2, 8, 1


class Costs(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.found = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if (cost := op_cost(func, args, kwargs or {}, result)) is not None:
            self.found.append(cost)
        return result


def costs_of(act, *arguments) -> list[OpCost]:
    with Costs() as costs:
        act(*arguments)
    return costs.found


def test_a_product_reads_both_matrices_and_has_two_flops_a_multiply_add():
    a, b = torch.ones(6, 5), torch.ones(5, 7)
    assert costs_of(torch.mm, a, b) == [
        OpCost("mm", "products", FP32 * (6 * 5 + 5 * 7), FP32 * 6 * 7, 2 * 6 * 5 * 7, "fp32 product")
    ]
    (half,) = costs_of(torch.mm, a.bfloat16(), b.bfloat16())
    assert half == OpCost("mm", "products", BF16 * (6 * 5 + 5 * 7), BF16 * 6 * 7, 2 * 6 * 5 * 7, "product")


def test_elementwise_work_reads_its_inputs_once_and_has_no_flops():
    x, gain = torch.ones(6, 5), torch.ones(5)
    assert costs_of(torch.mul, x, gain) == [OpCost("mul", "elementwise", FP32 * (30 + 5), FP32 * 30)]
    assert costs_of(torch.mul, x, x) == [OpCost("mul", "elementwise", FP32 * 30, FP32 * 30)]
    assert costs_of(torch.mul, x, gain.expand(6, 5))[0].read_bytes == FP32 * (30 + 5)


def test_what_is_written_in_place_is_read_unless_it_is_overwritten():
    x, y = torch.ones(6, 5), torch.ones(6, 5)
    assert costs_of(x.add_, y) == [OpCost("add_", "elementwise", FP32 * 60, FP32 * 30)]
    assert costs_of(x.copy_, y.bfloat16()) == [OpCost("copy_", "copies", BF16 * 30, FP32 * 30)]
    assert costs_of(x.zero_) == [OpCost("zero_", "copies", 0, FP32 * 30)]
    (into,) = costs_of(lambda: torch.mul(x, y, out=torch.empty(6, 5)))
    assert (into.read_bytes, into.written_bytes) == (FP32 * 60, FP32 * 30)


def test_a_view_and_memory_without_content_are_no_launch():
    x = torch.ones(6, 5)
    for act in (x.t, lambda: x.view(30)[3:], lambda: x.expand(2, 6, 5), lambda: torch.empty_like(x), x.detach):
        assert costs_of(act) == []


def test_a_look_up_reads_the_rows_it_finds_and_not_the_table():
    table, ids = torch.ones(1000, 8), torch.arange(5)
    (found,) = costs_of(torch.nn.functional.embedding, ids, table)
    assert found == OpCost("embedding", "gather/scatter", INT64 * 5 + FP32 * 5 * 8, FP32 * 5 * 8)
    (found,) = costs_of(table.gather, 1, torch.zeros(1000, 1, dtype=torch.long))
    assert (found.read_bytes, found.written_bytes) == ((INT64 + FP32) * 1000, FP32 * 1000)
    (few,) = costs_of(torch.ones(3, 8).index_select, 0, torch.zeros(500, dtype=torch.long))
    assert few.read_bytes == INT64 * 500 + FP32 * 3 * 8  # a small table is read once


def test_a_scatter_touches_the_places_it_is_told():
    x, ids, source = torch.ones(10, 100), torch.zeros(10, 1, dtype=torch.long), torch.ones(10, 1)
    (in_place,) = costs_of(x.scatter_add_, 1, ids, source)
    assert in_place == OpCost("scatter_add_", "gather/scatter", (INT64 + FP32 + FP32) * 10, FP32 * 10)
    (copied,) = costs_of(x.scatter_add, 1, ids, source)
    assert copied == OpCost("scatter_add", "gather/scatter", (INT64 + FP32) * 10 + FP32 * 1000, FP32 * 1000)
    (rows,) = costs_of(x.index_add_, 0, torch.arange(2), torch.ones(2, 100))
    assert rows.written_bytes == FP32 * 200
    grad, ids = torch.ones(5, 8), torch.arange(5)
    (backward,) = costs_of(lambda: torch.ops.aten.embedding_dense_backward(grad, ids, 1000, -1, False))
    assert (backward.read_bytes, backward.written_bytes) == (INT64 * 5 + FP32 * 40, FP32 * 8000)


@pytest.mark.parametrize(
    ("act", "kind"),
    [
        (lambda x: x.sum(0), "reductions"),
        (lambda x: x.softmax(-1), "reductions"),
        (lambda x: x.logsumexp(-1), "reductions"),
        (lambda x: x.cumsum(0), "scans and sorts"),
        (lambda x: x.sort(), "scans and sorts"),
        (lambda x: x.bfloat16(), "copies"),
        (lambda x: x.clone(), "copies"),
        (lambda x: torch.cat([x, x]), "copies"),
        (lambda x: x.exp(), "elementwise"),
        (lambda x: torch.ops.aten.silu_backward(x, x), "elementwise"),
        (lambda x: torch.bmm(x[None], x.t()[None]), "products"),
    ],
)
def test_every_operation_is_of_a_kind(act, kind):
    assert [cost.kind for cost in costs_of(act, torch.ones(6, 5))] == [kind]


def test_attention_computes_every_score_under_a_mask_and_half_of_them_without():
    rows, heads, groups, length, width, value_width = 2, 8, 4, 64, 48, 32
    scores = rows * heads * length * length
    with FakeTensorMode():
        q, k, v = (
            torch.empty(rows, n, length, d, dtype=torch.bfloat16, requires_grad=True)
            for n, d in ((heads, width), (heads, width), (heads, value_width))
        )
        bias = torch.empty(rows, 1, length, length, dtype=torch.bfloat16).expand(rows, heads, length, length)
        few_k, few_v = (torch.empty(rows, groups, length, width, dtype=torch.bfloat16) for _ in range(2))

        def masked():
            aten = torch.ops.aten
            mixed = aten._scaled_dot_product_efficient_attention(q, k, v, bias, True, 0.0, False)[0]
            torch.autograd.backward(mixed, torch.empty_like(mixed))

        def causal():
            torch.ops.aten._scaled_dot_product_flash_attention(q, few_k, few_v, 0.0, True)

        found = [cost for cost in costs_of(masked) if cost.kind == "attention"]
        (half,) = costs_of(causal)
    forward, backward = found
    assert (forward.flops, forward.rate) == (2 * scores * (width + value_width), "masked attention")
    assert (backward.flops, backward.rate) == (2 * scores * (3 * width + 2 * value_width), "masked attention backward")
    assert (half.flops, half.rate) == (2 * scores // 2 * 2 * width, "attention")
    given = BF16 * rows * (2 * heads * length * width + heads * length * value_width + length * length)
    assert forward.read_bytes == given  # the bias of one head serves all

"""On a GPU every backend computes the reference's attention, with its gradients, wherever it claims to."""

import pytest
import torch

from athanor.kernels.attention import attention, prepare, reference
from athanor.kernels.attention_choice import Call, choose
from athanor.kernels.span import Span

pytestmark = pytest.mark.gpu

ROWS, LENGTH = 3, 300  # not a multiple of any block
DOCUMENTS = ([300], [1, 1, 130, 40, 128], [290, 10])
CALLS = {  # window, sink, cap, query heads, key heads, key width, value width
    "documents": ("varlen", None, 0, None, 4, 4, 64, 64),
    "grouped heads": ("varlen", None, 0, None, 6, 2, 128, 128),
    "window": ("varlen", 50, 0, None, 4, 2, 64, 64),
    "narrow window": ("varlen", 3, 0, None, 4, 4, 32, 32),
    "wide heads": ("varlen", None, 0, None, 2, 1, 256, 256),
    "odd heads": ("varlen", None, 0, None, 2, 2, 40, 40),
    "sinks": ("flex", 20, 4, None, 4, 2, 64, 64),
    "cap": ("flex", None, 0, 2.0, 4, 2, 64, 64),
    "cap in a window": ("flex", 130, 0, 2.0, 4, 4, 32, 32),
    "values of another width": ("flex", None, 0, None, 4, 4, 96, 64),
    "narrow values": ("flex", 64, 2, None, 4, 4, 48, 32),
}


def span(one_row, window, sink):
    rows = [[sum(row[:i]) for i, n in enumerate(row) for _ in range(n)] for row in DOCUMENTS]
    return Span(torch.tensor(rows[1:2] if one_row else rows, device="cuda"), window=window, sink=sink)


def far(found, exact):
    return ((found.double() - exact).norm() / exact.norm()).item()


@pytest.mark.parametrize("one_row", [True, False])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", CALLS)
def test_a_backend_is_as_near_to_exact_attention_as_the_reference_is(name, dtype, one_row):
    backend, window, sink, cap, heads, groups, width, value_width = CALLS[name]
    generator = torch.Generator("cuda").manual_seed(0)
    shapes = ((heads, width), (groups, width), (groups, value_width), (heads, value_width))
    q, k, v, cotangent = (
        torch.randn(ROWS, LENGTH, *shape, generator=generator, device="cuda", dtype=dtype) for shape in shapes
    )
    seen = span(one_row, window, sink)
    prepare(seen)
    assert choose(Call.of(q, v, seen, cap)).backend == backend
    found, near, exact = [], [], []
    for attend, leaves, out in (
        (attention, (q, k, v), found),
        (reference, (q, k, v), near),
        (reference, (q.double(), k.double(), v.double()), exact),
    ):
        leaves = [x.detach().requires_grad_() for x in leaves]
        mixed = attend(*leaves, seen, cap)
        out += [mixed, *torch.autograd.grad(mixed, leaves, cotangent.to(mixed.dtype))]
    for ours, theirs, true in zip(found, near, exact, strict=True):
        assert ours.dtype == dtype
        assert far(ours, true) <= 1.5 * far(theirs, true) + 2 * torch.finfo(dtype).eps


@pytest.mark.parametrize("name", ["documents", "sinks"])
def test_whole_rows_in_fp32_and_what_continues_a_past_are_the_references(name):
    _, window, sink, cap, heads, groups, width, _ = CALLS[name]
    q, k = (torch.randn(ROWS, LENGTH, n, width, device="cuda") for n in (heads, groups))
    seen = span(False, window, sink)
    assert torch.equal(attention(q, k, k, seen, cap), reference(q, k, k, seen, cap))
    late = Span(seen.doc_start_BT[:, -3:], LENGTH - 3, window, sink)
    q, k = q.bfloat16(), k.bfloat16()
    found = attention(q[:, -3:], k, k, late, cap)
    torch.testing.assert_close(found, reference(q, k, k, seen, cap)[:, -3:], rtol=0.02, atol=0.02)


def test_under_autocast_products_are_in_16_bits():
    q = torch.randn(ROWS, LENGTH, 4, 64, device="cuda")
    for window, sink in ((None, 0), (20, 4)):
        seen = span(False, window, sink)
        with torch.autocast("cuda", torch.bfloat16):
            found = attention(q, q, q, seen)
        assert found.dtype == torch.bfloat16
        torch.testing.assert_close(found.float(), reference(q, q, q, seen), rtol=0.02, atol=0.02)

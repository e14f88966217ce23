"""Rotations are the angles of the paper, in both pairings, at any base, position and scaling."""

import pytest
import torch
from definitions import rope
from hypothesis import given, settings
from hypothesis import strategies as st
from interpreted import agree, traffic

from athanor.kernels.rope import (
    _op,
    rope_table,
    rotate_half_split,
    rotate_half_split_reference,
    rotate_interleaved,
    rotate_interleaved_reference,
)

ROTATIONS = {"half-split": rotate_half_split, "interleaved": rotate_interleaved}
DTYPES = [torch.float32, torch.bfloat16]
POSITIONS = [0, 1, 2, 7, 63, 500]


@pytest.mark.parametrize("pairing", ROTATIONS)
@pytest.mark.parametrize(("base", "factor"), [(10_000.0, 1.0), (50.0, 1.0), (10_000.0, 4.0)])
def test_every_pair_turns_by_its_angle(pairing, base, factor):
    x = torch.randn(6, 3, 8, generator=torch.Generator().manual_seed(0)).double()
    table = rope_table(torch.tensor([POSITIONS]), 8, base, factor)
    found = ROTATIONS[pairing](x[None], table)[0]
    torch.testing.assert_close(found, rope(x, POSITIONS, base, pairing, factor), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("pairing", ROTATIONS)
def test_scores_depend_on_the_distance_alone(pairing):
    q, k = torch.randn(2, 1, 1, 1, 8, generator=torch.Generator().manual_seed(0))
    rotate = ROTATIONS[pairing]

    def score(i, j):
        at = [rope_table(torch.tensor([[position]]), 8, 10_000.0) for position in (i, j)]
        return float((rotate(q, at[0]) * rotate(k, at[1])).sum())

    assert score(9, 4) == pytest.approx(score(105, 100), abs=1e-5)
    assert abs(score(9, 4) - score(4, 9)) > 1e-3


@pytest.mark.parametrize("head_dim", [24, 64, 96])
def test_frequencies_are_rounded_as_in_published_checkpoints(head_dim):
    """Their tables are 1 / base^(2i/d) in fp32, cosines and sines of the product with the position."""
    power = torch.tensor(50_000.0) ** (torch.arange(0, head_dim, 2).float() / head_dim)
    angles = torch.outer(torch.arange(4096).float(), 1.0 / power)
    found = rope_table(torch.arange(4096)[None], head_dim, 50_000.0)[:, 0]
    assert torch.equal(found, torch.stack((angles.cos(), angles.sin())))


def by_table(x, table, interleaved, backward):
    """The turns of the head's pairs, one after the other, by the table's cosines and sines."""
    rows, _, _, width = x.shape
    half, turned = width // 2, [None] * width
    for i in range(half):
        a, b = (2 * i, 2 * i + 1) if interleaved else (i, i + half)
        cos, sin = (part[:, :, i, None].double().expand(rows, -1, -1) for part in table)
        sin = -sin if backward else sin
        turned[a], turned[b] = x[..., a] * cos - x[..., b] * sin, x[..., a] * sin + x[..., b] * cos
    return torch.stack(turned, dim=-1)


def heads_and_table(rows, positions, heads, width, dtype=torch.float32, table_rows=1, factor=1.0):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(rows, positions, heads, width, generator=generator).to(dtype)
    table = rope_table(torch.randint(0, 900, (table_rows, positions), generator=generator), width, 100.0)
    return x, factor * table


@pytest.mark.parametrize("reference", [rotate_half_split_reference, rotate_interleaved_reference])
def test_gradients_of_the_reference_are_those_of_its_values(reference):
    x, table = heads_and_table(2, 3, 2, 6)
    assert torch.autograd.gradcheck(lambda x: reference(x, table), x.double().requires_grad_())


@settings(max_examples=20, deadline=None)
@given(
    st.sampled_from([(2, 7, 3, 24), (2, 5, 1, 8), (1, 1, 12, 64), (3, 0, 2, 4), (2, 90, 4, 2), (0, 3, 2, 4)]),
    st.booleans(),
    st.booleans(),
    st.sampled_from([1.0, 1.5]),
    st.sampled_from(DTYPES),
)
def test_the_kernel_turns_and_stretches_by_the_table_at_any_shape(shape, interleaved, own_tables, factor, dtype):
    x, table = heads_and_table(*shape, dtype, shape[0] if own_tables else 1, factor)
    agree(lambda x: _op(x, table, interleaved, False), lambda x: by_table(x, table, interleaved, False), (x,))


@pytest.mark.parametrize("interleaved", [False, True])
@pytest.mark.parametrize("view", [lambda x: x[..., 4:12], lambda x: x[:, :, 1:2], lambda x: x.transpose(1, 2)])
def test_the_kernel_takes_slices_of_heads_and_of_channels(interleaved, view):
    x = view(torch.randn(2, 6, 3, 16, generator=torch.Generator().manual_seed(0)))
    table = rope_table(torch.arange(x.shape[1])[None], x.shape[3], 100.0)
    with traffic():
        assert torch.equal(_op(x, table, interleaved, False), _op(x.contiguous(), table, interleaved, False))
        assert torch.equal(_op(x, table, interleaved, True), _op(x.contiguous(), table, interleaved, True))


@pytest.mark.parametrize("interleaved", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
def test_bytes_moved_are_the_heads_twice_and_the_table_once_a_row(interleaved, dtype):
    x, table = heads_and_table(2, 21, 5, 24, dtype)
    with traffic() as forward:
        _op(x, table, interleaved, False)
    assert (forward.read_bytes, forward.written_bytes) == (x.nbytes + 2 * table.nbytes, x.nbytes)


@pytest.mark.parametrize("interleaved", [False, True])
def test_compiled_it_is_one_graph_with_the_same_numbers(interleaved):
    x, table = heads_and_table(2, 6, 3, 16)
    x.requires_grad_()
    compiled = torch.compile(lambda x: _op(x, table, interleaved, False), fullgraph=True, backend="aot_eager")
    y, dy = compiled(x), torch.randn(x.shape, generator=torch.Generator().manual_seed(1))
    assert torch.equal(y, _op(x, table, interleaved, False))
    assert torch.equal(torch.autograd.grad(y, x, dy)[0], _op(dy, table, interleaved, True))

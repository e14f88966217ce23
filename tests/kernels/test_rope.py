"""Rotations are the angles of the paper, in both pairings, at any base, position and scaling."""

from dataclasses import replace

import pytest
import torch
from definitions import rope
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_checks import (
    assert_compiles_well,
    assert_equals_reference,
    assert_one_graph,
    assert_reference_differentiates,
    assert_traffic,
    dtypes,
)

from athanor.kernels.kind import choice, interpreted
from athanor.kernels.rope import KERNEL, rope_table, rotate_half_split, rotate_interleaved

ROTATIONS = {"half-split": rotate_half_split, "interleaved": rotate_interleaved}
ROTATION = {rotate.__name__: rotate for rotate in ROTATIONS.values()}
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


def heads_and_table(rows, positions, heads, width, dtype=torch.float32, table_rows=1, factor=1.0):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(rows, positions, heads, width, generator=generator).to(dtype)
    table = rope_table(torch.randint(0, 900, (table_rows, positions), generator=generator), width, 100.0)
    return x, factor * table


def of_heads(function, table):
    """The function of the heads alone: tables have no gradient."""
    return lambda x: function(x, table)


@pytest.mark.parametrize("kernel", KERNEL, ids=lambda kernel: kernel.name)
def test_gradients_of_the_reference_are_those_of_its_values(kernel):
    x, table = heads_and_table(2, 3, 2, 6)
    assert_reference_differentiates(of_heads(kernel.reference, table), (x,))


@settings(max_examples=30, deadline=None)
@given(
    st.sampled_from([(2, 7, 3, 24), (2, 5, 1, 8), (1, 1, 12, 64), (3, 0, 2, 4), (2, 90, 4, 2), (0, 3, 2, 4)]),
    st.sampled_from(KERNEL),
    st.booleans(),
    st.sampled_from([1.0, 1.5]),
    dtypes,
)
def test_values_and_gradients_equal_the_reference(shape, kernel, own_tables, factor, dtype):
    """Tables of each row or of all, and such as stretch."""
    x, table = heads_and_table(*shape, dtype, shape[0] if own_tables else 1, factor)
    assert_equals_reference(of_heads(ROTATION[kernel.name], table), of_heads(kernel.reference, table), (x,))


@pytest.mark.parametrize("kernel", KERNEL, ids=lambda kernel: kernel.name)
@pytest.mark.parametrize("view", [lambda x: x[..., 4:12], lambda x: x[:, :, 1:2], lambda x: x.transpose(1, 2)])
def test_slices_of_heads_and_of_channels_are_taken(kernel, view):
    x = view(torch.randn(2, 6, 3, 16, generator=torch.Generator().manual_seed(0)))
    table = rope_table(torch.arange(x.shape[1])[None], x.shape[3], 100.0)
    assert_equals_reference(of_heads(ROTATION[kernel.name], table), of_heads(kernel.reference, table), (x,))


@pytest.mark.parametrize("kernel", KERNEL, ids=lambda kernel: kernel.name)
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_heads_are_read_and_written_once_and_the_table_is_read_once_a_row(kernel, dtype):
    for table_rows in (1, 2):
        x, table = heads_and_table(2, 21, 5, 24, dtype, table_rows)
        costs = replace(
            kernel,
            forward_cost=of_heads(kernel.forward_cost, table),
            backward_cost=of_heads(kernel.backward_cost, table),
        )
        assert_traffic(costs, of_heads(ROTATION[kernel.name], table), (x,))


@pytest.mark.parametrize("kernel", KERNEL, ids=lambda kernel: kernel.name)
def test_torch_compile_sees_one_graph(kernel):
    x, table = heads_and_table(2, 6, 3, 16)
    assert_one_graph(of_heads(ROTATION[kernel.name], table), (x,))


@pytest.mark.parametrize("kernel", KERNEL, ids=lambda kernel: kernel.name)
def test_what_it_cannot_take_goes_to_the_reference_and_it_says_why(kernel):
    x, table = heads_and_table(1, 2, 3, 8)
    with interpreted():
        assert choice(kernel, x, table) == "Triton"
        assert choice(kernel, x.double(), table) == "reference: float64 is computed by torch"
        assert choice(kernel, x, table.double()) == "reference: the table is not as rope_table makes it"
        assert choice(kernel, x[:, :, :0], table) == "reference: 0 channels at a position, not 1 to 16,384"


@pytest.mark.parametrize("kernel", KERNEL, ids=lambda kernel: kernel.name)
def test_compiled_for_a_gpu_it_spills_nothing_and_moves_128_bits_at_a_time(kernel):
    assert_compiles_well(kernel.name, every_access_wide=False)

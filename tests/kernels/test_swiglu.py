"""SwiGLU gates its second argument by the SiLU of its first; the Triton form equals the reference and moves no more."""

import pytest
import torch
from definitions import silu
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_checks import (
    assert_compiles_well,
    assert_equals_reference,
    assert_one_graph,
    assert_reference_differentiates,
    assert_traffic,
    dtypes,
    rows,
    tensors,
    widths,
)

from athanor.kernels.kind import choice, interpreted
from athanor.kernels.swiglu import KERNEL, swiglu, swiglu_reference


def pair(*shape, dtype=torch.float32):
    return torch.randn(2, *shape, generator=torch.Generator().manual_seed(0)).to(dtype).unbind(0)


def test_the_first_is_the_gate_and_the_second_the_value():
    u, v = pair(3, 4, 5, dtype=torch.float64)
    torch.testing.assert_close(swiglu(u, v), silu(u) * v)
    assert_reference_differentiates(swiglu_reference, (u, v))


@settings(max_examples=40, deadline=None)
@given(data=st.data(), shape=st.tuples(rows, widths), dtype=dtypes)
def test_values_and_gradients_equal_the_reference(data, shape, dtype):
    assert_equals_reference(swiglu, swiglu_reference, data.draw(tensors(shape, 2, dtype)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_extreme_gates_are_neither_nan_nor_wrong(dtype):
    u = torch.tensor([-1e30, -200.0, -90.0, -1e-30, 0.0, 1e-30, 90.0, 1e30], dtype=dtype)
    assert_equals_reference(swiglu, swiglu_reference, (u, torch.linspace(-2, 2, 8, dtype=dtype)))


@pytest.mark.parametrize("shape", [(3, 1025), (1, 64), (2, 5, 128)])
def test_each_argument_is_read_once_and_each_result_written_once(shape):
    assert_traffic(KERNEL, swiglu, pair(*shape))
    packed = torch.randn(*shape[:-1], 2 * shape[-1]).bfloat16()
    assert_traffic(KERNEL, swiglu, packed.chunk(2, -1))


def test_a_gradient_of_any_strides_is_taken():
    u, v = (x.requires_grad_() for x in pair(6, 8))
    with interpreted():
        found = torch.autograd.grad(swiglu(u, v).sum(), (u, v))
        turned = torch.autograd.grad(swiglu(u, v), (u, v), torch.ones(8, 6).T)
    for ours, theirs in zip(found, turned, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0.0, atol=0.0)


def test_torch_compile_sees_one_graph():
    assert_one_graph(swiglu, pair(3, 33))


def test_what_it_cannot_take_goes_to_the_reference_and_it_says_why():
    u, v = pair(4, 6)
    with interpreted():
        assert choice(KERNEL, u, v) == "Triton"
        assert choice(KERNEL, u.double(), v.double()) == "reference: float64 is computed by torch"
        assert choice(KERNEL, u, v.bfloat16()) == "reference: gate and value differ in shape or dtype"
        assert choice(KERNEL, u.T, v.T) == "reference: the elements of a row do not lie side by side"
        torch.testing.assert_close(swiglu(u.T, v.T), swiglu_reference(u.T, v.T), rtol=0.0, atol=0.0)


def test_compiled_for_a_gpu_it_spills_nothing_and_moves_128_bits_at_a_time():
    assert_compiles_well("swiglu")

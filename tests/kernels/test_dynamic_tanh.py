"""Dynamic tanh is its formula; the Triton form equals the reference and moves no more than it must."""

import pytest
import torch
from definitions import dynamic_tanh as by_definition
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_checks import (
    assert_compiles_well,
    assert_equals_reference,
    assert_one_graph,
    assert_reference_differentiates,
    assert_traffic,
    dtypes,
    on_triton,
)

from athanor.kernels.dynamic_tanh import KERNEL, dynamic_tanh, dynamic_tanh_reference
from athanor.kernels.kind import choice, interpreted

DTYPES = [torch.float32, torch.bfloat16]


def arguments(*shape, dtype=torch.float32, scale=1.0):
    generator = torch.Generator().manual_seed(0)
    x, *rest = (torch.randn(shape, generator=generator) for shape in (shape, (1,), shape[-1:], shape[-1:]))
    return ((x * scale).to(dtype), *rest)


def test_it_is_its_formula():
    x, *rest = arguments(2, 3, 5)
    wanted = by_definition(*(tensor.double() for tensor in (x, *rest)))
    torch.testing.assert_close(dynamic_tanh(x, *rest).double(), wanted, rtol=1e-6, atol=1e-6)
    assert_reference_differentiates(dynamic_tanh_reference, (x, *rest))


@settings(max_examples=20, deadline=None)
@given(
    st.sampled_from([(0,), (1,), (37,), (2, 3, 11)]),
    st.sampled_from([1, 7, 64, 100]),
    dtypes,
    st.sampled_from([0.3, 3.0, 100.0]),
)
def test_values_and_gradients_equal_the_reference(leading, channels, dtype, scale):
    assert_equals_reference(
        dynamic_tanh, dynamic_tanh_reference, arguments(*leading, channels, dtype=dtype, scale=scale)
    )


def test_it_is_exact_near_zero_and_far_from_it():
    x = torch.tensor([[sign * 10.0**power for power in range(-18, 18) for sign in (-1, 1)]])
    with on_triton():
        found = dynamic_tanh(x, torch.ones(1), torch.ones(x.shape[1]), torch.zeros(x.shape[1]))
    torch.testing.assert_close(found.double(), x.double().tanh(), rtol=1e-6, atol=0.0)


def test_its_slope_is_exact_where_it_is_almost_one():
    x = torch.linspace(5.0, 20.0, 16)[None].requires_grad_()
    with on_triton():
        (found,) = torch.autograd.grad(dynamic_tanh(x, torch.ones(1), torch.ones(16), torch.zeros(16)).sum(), x)
    torch.testing.assert_close(found.double(), x.detach().double().cosh() ** -2, rtol=1e-5, atol=0.0)


@pytest.mark.parametrize("view", [lambda x: x[:, 3:10], lambda x: x.T[:7]])
def test_any_strides_are_taken(view):
    x, alpha, gain, bias = arguments(7, 12)
    x, gain, bias = view(x), *(vector[: view(x).shape[1]].clone() for vector in (gain, bias))
    with on_triton():
        assert torch.equal(dynamic_tanh(x, alpha, gain, bias), dynamic_tanh(x.clone(), alpha, gain, bias))


@pytest.mark.parametrize("dtype", DTYPES)
def test_each_tensor_is_read_once_and_written_once(dtype):
    given = arguments(200, 96, dtype=dtype)
    assert_traffic(KERNEL, dynamic_tanh, given, cached=given[1:])


def test_from_memory_gain_and_bias_too_are_little():
    given = arguments(640, 96, dtype=torch.bfloat16)
    with on_triton() as traffic:
        dynamic_tanh(*given)
    assert traffic.bytes <= 1.10 * KERNEL.forward_cost(*given).bytes


def test_torch_compile_sees_one_graph():
    assert_one_graph(dynamic_tanh, arguments(6, 40))


def test_what_it_cannot_take_goes_to_the_reference_and_it_says_why():
    given = arguments(4, 6)
    with interpreted():
        assert choice(KERNEL, *given) == "Triton"
        assert choice(KERNEL, given[0].double(), *given[1:]) == "reference: float64 is computed by torch"


def test_compiled_for_a_gpu_it_spills_nothing_and_moves_128_bits_at_a_time():
    assert_compiles_well("dynamic_tanh", every_access_wide=False)

"""Dynamic tanh is its formula."""

import pytest
import torch
from definitions import dynamic_tanh as by_definition
from hypothesis import given, settings
from hypothesis import strategies as st
from interpreted import agree, traffic

from athanor.kernels.dynamic_tanh import _op, dynamic_tanh, dynamic_tanh_reference

DTYPES = [torch.float32, torch.bfloat16]


def arguments(*shape, dtype=torch.float32, scale=1.0):
    generator = torch.Generator().manual_seed(0)
    shapes = (shape, (1,), shape[-1:], shape[-1:])
    x, *rest = (torch.randn(shape, generator=generator) for shape in shapes)
    return ((x * scale).to(dtype), *rest)


def test_it_is_its_formula():
    x, *rest = arguments(2, 3, 5)
    wanted = by_definition(*(tensor.double() for tensor in (x, *rest)))
    torch.testing.assert_close(dynamic_tanh(x, *rest).double(), wanted, rtol=1e-6, atol=1e-6)


def test_gradients_of_the_reference_are_those_of_its_values():
    leaves = tuple(tensor.double().requires_grad_() for tensor in arguments(2, 3, 5))
    assert torch.autograd.gradcheck(dynamic_tanh_reference, leaves)


@settings(max_examples=15, deadline=None)
@given(
    st.sampled_from([(0,), (1,), (37,), (2, 3, 11)]),
    st.sampled_from([1, 7, 64, 100]),
    st.sampled_from(DTYPES),
    st.sampled_from([0.3, 3.0, 100.0]),
)
def test_the_kernels_are_the_formula_at_any_shape(leading, channels, dtype, scale):
    agree(_op, by_definition, arguments(*leading, channels, dtype=dtype, scale=scale))


def test_the_kernel_is_exact_near_zero_and_far_from_it():
    x = torch.tensor([[sign * 10.0**power for power in range(-20, 21) for sign in (-1, 1)]])
    found = _op(x, torch.ones(1), torch.ones(x.shape[1]), torch.zeros(x.shape[1]))
    torch.testing.assert_close(found.double(), x.double().tanh(), rtol=1e-6, atol=0.0)


@pytest.mark.parametrize("view", [lambda x: x[:, 3:10], lambda x: x.T[:7]])
def test_the_kernels_take_any_strides(view):
    x, alpha, gain, bias = arguments(7, 12)
    x, gain, bias = view(x), *(vector[: view(x).shape[1]].clone() for vector in (gain, bias))
    agree(_op, by_definition, (x, alpha, gain, bias))
    leaf = x.clone().requires_grad_()
    assert torch.equal(_op(x, alpha, gain, bias), _op(leaf, alpha, gain, bias))


@pytest.mark.parametrize("dtype", DTYPES)
def test_bytes_moved_are_little_more_than_each_tensor_once(dtype):
    leaves = [tensor.requires_grad_() for tensor in arguments(640, 96, dtype=dtype)]
    size = leaves[0].nbytes
    with traffic() as forward:
        y = _op(*leaves)
    assert forward.read_bytes >= size and forward.written_bytes == size
    assert forward.read_bytes + forward.written_bytes <= 1.10 * 2 * size
    with traffic() as backward:
        torch.autograd.grad(y, leaves, torch.ones_like(y))
    assert backward.read_bytes >= 2 * size and backward.written_bytes >= size
    assert backward.read_bytes + backward.written_bytes <= 1.10 * 3 * size


def test_compiled_it_is_one_graph_with_the_same_numbers():
    leaves = [tensor.requires_grad_() for tensor in arguments(6, 40)]
    found, wanted = (
        (f(*leaves), torch.autograd.grad(f(*leaves).sum(), leaves))
        for f in (torch.compile(_op, fullgraph=True, backend="aot_eager"), _op)
    )
    torch.testing.assert_close(found, wanted, rtol=0, atol=0)

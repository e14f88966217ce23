"""Root-mean-square normalisation is its formula, with a gain and without, alone and of a sum."""

import pytest
import torch
from definitions import rms_norm as by_definition
from hypothesis import given, settings
from hypothesis import strategies as st
from interpreted import agree, traffic

from athanor.kernels.rms_norm import _add_op, _norm_op, add_rms_norm_reference, rms_norm, rms_norm_reference

EPS = 1e-6
DTYPES = [torch.float32, torch.bfloat16]


def of_sum(x, branch, gain, eps):
    return x + branch, by_definition(x + branch, gain, eps)


def normal(*shape, dtype=torch.float32, seed=0, scale=1.0):
    return (torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * scale).to(dtype)


@pytest.mark.parametrize("eps", [1e-6, 0.5])
def test_it_is_its_formula(eps):
    x, gain = normal(3, 5, 7).double(), torch.arange(7).double()
    torch.testing.assert_close(rms_norm(x, gain, eps), by_definition(x, gain, eps), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(rms_norm(x, None, eps), by_definition(x, None, eps), rtol=1e-6, atol=1e-6)


def test_gradients_of_the_reference_are_those_of_its_values():
    x, branch, gain = (normal(*shape).double().requires_grad_() for shape in ((2, 3, 5), (2, 3, 5), (5,)))
    assert torch.autograd.gradcheck(lambda *tensors: rms_norm_reference(*tensors, EPS), (x, gain))
    assert torch.autograd.gradcheck(lambda *tensors: add_rms_norm_reference(*tensors, EPS), (x, branch, gain))


@settings(max_examples=12, deadline=None)
@given(
    st.sampled_from([(0,), (1,), (37,), (3, 0), (2, 3, 11)]),
    st.sampled_from([1, 7, 64, 100]),
    st.sampled_from(DTYPES),
    st.booleans(),
    st.sampled_from([1e-6, 0.5]),
)
def test_the_kernels_are_the_formula_at_any_shape(leading, channels, dtype, has_gain, eps):
    x, gain = normal(*leading, channels, dtype=dtype), normal(channels, seed=1) if has_gain else None
    agree(_norm_op, by_definition, (x, gain), (eps,))


@settings(max_examples=12, deadline=None)
@given(
    st.sampled_from([(0,), (1,), (37,), (2, 3, 11)]),
    st.sampled_from([1, 7, 64, 100]),
    st.sampled_from(DTYPES),
    st.sampled_from(DTYPES),
    st.booleans(),
)
def test_the_kernels_of_a_sum_are_the_formula_at_any_shape(leading, channels, dtype, branch_dtype, has_gain):
    x, branch = normal(*leading, channels, dtype=dtype), normal(*leading, channels, dtype=branch_dtype, seed=1)
    agree(_add_op, of_sum, (x, branch, normal(channels, seed=2) if has_gain else None), (EPS,))


@pytest.mark.parametrize("scale", [1e-12, 1e15])
def test_the_kernels_keep_rows_far_from_one(scale):
    x = normal(3, 40, scale=scale)
    torch.testing.assert_close(_norm_op(x, None, 0.0).double(), by_definition(x.double(), None, 0.0))


@pytest.mark.parametrize("view", [lambda x: x[:, 3:10], lambda x: x.T[:9], lambda x: x[:1].expand(6, -1)])
def test_the_kernels_take_any_strides(view):
    x, dy = view(normal(9, 12)), view(normal(9, 12, seed=1))
    leaf = x.clone().requires_grad_()
    assert torch.equal(_norm_op(x, None, EPS), _norm_op(leaf, None, EPS))
    found = [torch.autograd.grad(_norm_op(leaf, None, EPS), leaf, gradient) for gradient in (dy, dy.clone())]
    assert torch.equal(found[0][0], found[1][0])


@pytest.mark.parametrize("dtype", DTYPES)
def test_what_is_normed_is_the_sum_as_it_is_stored(dtype):
    x, branch, gain = normal(50, 40, dtype=dtype), normal(50, 40, dtype=dtype, seed=1), normal(40, seed=2)
    total, normed = _add_op(x, branch, gain, EPS)
    assert total.dtype == dtype and torch.equal(normed, _norm_op(total, gain, EPS))


@pytest.mark.parametrize("used", [0, 1])
def test_a_sum_or_its_norm_that_nobody_reads_has_no_gradient(used):
    x, branch = (normal(5, 40, seed=seed).requires_grad_() for seed in range(2))
    found, wanted = (
        torch.autograd.grad(f(x, branch, None, EPS)[used].square().sum(), (x, branch)) for f in (_add_op, of_sum)
    )
    torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize("branch_dtype", DTYPES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_bytes_moved_are_little_more_than_each_tensor_once(dtype, branch_dtype):
    x, branch, gain = normal(320, 96, dtype=dtype), normal(320, 96, dtype=branch_dtype), normal(96)
    leaves = [tensor.requires_grad_() for tensor in (x, branch, gain)]
    with traffic() as forward:
        total, normed = _add_op(x, branch, gain, EPS)
    given_bytes, made_bytes = x.nbytes + branch.nbytes, total.nbytes + normed.nbytes
    assert given_bytes <= forward.read_bytes and made_bytes == forward.written_bytes
    assert forward.read_bytes + forward.written_bytes <= 1.10 * (given_bytes + made_bytes)
    with traffic() as backward:
        torch.autograd.grad((total, normed), leaves, (torch.ones_like(total), torch.ones_like(normed)))
    gradients_bytes = total.nbytes if dtype == branch_dtype else given_bytes
    read_bytes = 2 * total.nbytes + normed.nbytes
    assert read_bytes <= backward.read_bytes and gradients_bytes <= backward.written_bytes
    assert backward.read_bytes + backward.written_bytes <= 1.10 * (read_bytes + gradients_bytes)


def test_the_gradient_of_the_gain_has_the_same_bits_every_time():
    x, dy = normal(500, 24), normal(500, 24, seed=1)
    gain = normal(24, seed=2).requires_grad_()
    once, again = (torch.autograd.grad(_norm_op(x, gain, EPS), gain, dy)[0] for _ in range(2))
    assert torch.equal(once, again)


def test_compiled_it_is_one_graph_with_the_same_numbers():
    x, branch, gain = normal(6, 40), normal(6, 40, seed=1), normal(40, seed=2).requires_grad_()
    compiled = torch.compile(_add_op, fullgraph=True, backend="aot_eager")
    found, wanted = (
        (f(x, branch, gain, EPS), torch.autograd.grad(f(x, branch, gain, EPS)[1].sum(), gain))
        for f in (compiled, _add_op)
    )
    torch.testing.assert_close(found, wanted, rtol=0, atol=0)

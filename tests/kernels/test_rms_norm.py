"""Root-mean-square normalisation is its formula, with a gain and without, alone and of a sum; Triton moves no more than
it must for it."""

import pytest
import torch
from definitions import rms_norm as by_definition
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
    tensors,
)

from athanor.kernels.kind import choice, interpreted
from athanor.kernels.rms_norm import KERNEL, add_rms_norm, add_rms_norm_reference, rms_norm, rms_norm_reference

EPS = 1e-6
DTYPES = [torch.float32, torch.bfloat16]
NORM, SUM = KERNEL

leading = st.sampled_from([(0,), (1,), (3, 0), (2, 3, 7)])
channels = st.sampled_from([1, 7, 64, 130])
gains = st.sampled_from([None, torch.float32, torch.bfloat16])
asked = st.sampled_from([None, torch.float32, torch.bfloat16])


def normal(*shape, dtype=torch.float32, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


@pytest.mark.parametrize("eps", [1e-6, 0.5])
def test_it_is_its_formula(eps):
    x, gain = normal(3, 5, 7).double(), torch.arange(7).double()
    torch.testing.assert_close(rms_norm(x, gain, eps), by_definition(x, gain, eps))
    torch.testing.assert_close(rms_norm(x, None, eps), by_definition(x, None, eps))


def test_of_a_sum_it_is_its_formula_beside_the_sum():
    x, branch, gain = normal(3, 5, 7), normal(3, 5, 7, seed=1), normal(7, seed=2)
    total, normed = add_rms_norm(x, branch, gain, EPS)
    assert torch.equal(total, x + branch) and torch.equal(normed, rms_norm(x + branch, gain, EPS))


def test_gradients_of_the_references_are_those_of_their_values():
    x, branch, gain = normal(2, 3, 5), normal(2, 3, 5, seed=1), normal(5, seed=2)
    assert_reference_differentiates(rms_norm_reference, (x, gain, EPS))
    assert_reference_differentiates(add_rms_norm_reference, (x, branch, gain, EPS))


@settings(max_examples=15, deadline=None)
@given(st.data(), leading, channels, dtypes, gains, asked, st.sampled_from([0.1, 0.5]))
def test_values_and_gradients_equal_the_reference(data, leading, channels, dtype, gain_dtype, asked, eps):
    (x,) = data.draw(tensors((*leading, channels), 1, dtype))
    gain = None if gain_dtype is None else normal(channels, dtype=gain_dtype)
    assert_equals_reference(rms_norm, lambda *given: rms_norm_reference(*given[:-1]), (x, gain, eps, asked))


@settings(max_examples=15, deadline=None)
@given(st.data(), leading, channels, dtypes, dtypes, gains, asked)
def test_values_and_gradients_of_a_sum_equal_the_reference(
    data, leading, channels, dtype, branch_dtype, gain_dtype, asked
):
    (x,) = data.draw(tensors((*leading, channels), 1, dtype))
    (branch,) = data.draw(tensors((*leading, channels), 1, branch_dtype))
    for tensor in (x, branch):  # eighths, whose sums bf16 holds exactly
        tensor.mul_(8).round_().clamp_(-32, 32).div_(8)
    gain = None if gain_dtype is None else normal(channels, dtype=gain_dtype, seed=1)
    assert_equals_reference(
        add_rms_norm, lambda *given: add_rms_norm_reference(*given[:-1]), (x, branch, gain, 0.1, asked)
    )


@pytest.mark.parametrize("scale", [1e-12, 1e15])
def test_rows_far_from_one_are_normed(scale):
    assert_equals_reference(rms_norm, rms_norm_reference, (scale * normal(3, 40), normal(40, seed=1), 1e-30))


@pytest.mark.parametrize("view", [lambda x: x[:, 3:10], lambda x: x.T[:9], lambda x: x[:1].expand(6, -1)])
def test_any_strides_are_taken_of_values_and_gradients(view):
    x, dy = (view(normal(9, 12, seed=seed)) for seed in range(2))
    with on_triton():
        assert torch.equal(rms_norm(x, None, EPS), rms_norm(x.clone(), None, EPS))
        leaf = x.clone().requires_grad_()
        once, again = (torch.autograd.grad(rms_norm(leaf, None, EPS), leaf, gradient) for gradient in (dy, dy.clone()))
    assert torch.equal(once[0], again[0])


@pytest.mark.parametrize("dtype", DTYPES)
def test_what_is_normed_is_the_sum_as_it_is_stored(dtype):
    x, branch, gain = normal(50, 40, dtype=dtype), normal(50, 40, dtype=dtype, seed=1), normal(40, seed=2)
    with on_triton():
        total, normed = add_rms_norm(x, branch, gain, EPS)
        assert torch.equal(total, x + branch) and torch.equal(normed, rms_norm(total, gain, EPS))


@pytest.mark.parametrize("used", [0, 1])
def test_a_sum_or_its_norm_that_nobody_reads_has_no_gradient(used):
    x, branch = normal(5, 40).requires_grad_(), normal(5, 40, dtype=torch.bfloat16, seed=1).requires_grad_()
    with on_triton():
        found = torch.autograd.grad(add_rms_norm(x, branch, None, EPS)[used].square().sum(), (x, branch))
    wanted = torch.autograd.grad(add_rms_norm_reference(x, branch, None, EPS)[used].square().sum(), (x, branch))
    torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_norm_comes_in_the_dtype_that_is_asked_for_and_the_sum_as_it_is(dtype):
    x, branch, gain = normal(9, 40), normal(9, 40, seed=1), normal(40, seed=2)
    assert torch.equal(rms_norm(x, gain, EPS, dtype), rms_norm(x, gain, EPS).to(dtype))
    with on_triton():
        total, normed = add_rms_norm(x, branch, gain, EPS, dtype)
        assert torch.equal(total, x + branch) and torch.equal(normed, rms_norm(x + branch, gain, EPS).to(dtype))


@pytest.mark.parametrize(("dtype", "asked"), [*zip(DTYPES, DTYPES, strict=True), tuple(DTYPES)])
def test_each_tensor_is_read_once_and_written_once(dtype, asked):
    x, branch, gain = normal(200, 96, dtype=dtype), normal(200, 96, dtype=torch.bfloat16), normal(96)
    assert_traffic(NORM, rms_norm, (x, gain, EPS, asked), cached=(gain,))
    assert_traffic(NORM, rms_norm, (x[:, 8:72], None, EPS, asked))
    assert_traffic(SUM, add_rms_norm, (x, branch, gain, EPS, asked), cached=(gain,))
    assert_traffic(SUM, add_rms_norm, (x, branch, None, EPS, asked))


def test_from_memory_the_gain_too_is_little():
    x, gain = normal(640, 64, dtype=torch.bfloat16), normal(64)
    with on_triton() as traffic:
        rms_norm(x, gain, EPS)
    assert traffic.bytes <= 1.10 * 2 * x.numel() * x.element_size()


def test_the_gradient_of_the_gain_sums_over_all_rows_and_has_the_same_bits_every_time():
    x, dy, gain = normal(100, 24), normal(100, 24, seed=1), normal(24, seed=2).requires_grad_()
    wanted = torch.autograd.grad(rms_norm_reference(x, gain, EPS), gain, dy)[0]
    with on_triton():
        once, again = (torch.autograd.grad(rms_norm(x, gain, EPS), gain, dy)[0] for _ in range(2))
    assert torch.equal(once, again)
    torch.testing.assert_close(once, wanted, rtol=1e-5, atol=1e-5)


def test_torch_compile_sees_one_graph():
    x, branch, gain = normal(6, 40), normal(6, 40, dtype=torch.bfloat16, seed=1), normal(40, seed=2)
    assert_one_graph(rms_norm, (x, gain, EPS))
    assert_one_graph(add_rms_norm, (x, branch, gain, EPS))


def test_what_it_cannot_take_goes_to_the_reference_and_it_says_why():
    x, branch = normal(4, 6), normal(4, 6, seed=1)
    wide, whole = torch.empty(1, 10_000), torch.float32
    with interpreted():
        assert choice(NORM, x, None, EPS, whole) == "Triton" == choice(SUM, x, branch.bfloat16(), None, EPS, whole)
        assert choice(NORM, x.double(), None, EPS, whole) == "reference: float64 is computed by torch"
        assert choice(NORM, x, None, EPS, torch.float64) == "reference: float64 is computed by torch"
        assert choice(NORM, wide, None, EPS, whole) == "reference: rows of 10,000 channels, not 1 to 8,192"
        assert choice(SUM, x, branch[:1], None, EPS, whole) == "reference: x and the branch differ in shape"
        third = choice(SUM, x.half(), branch.bfloat16(), None, EPS, whole)
        assert third == "reference: x and the branch add up to a third dtype"


@pytest.mark.parametrize("name", ["rms_norm", "add_rms_norm"])
def test_compiled_for_a_gpu_it_spills_nothing_and_moves_128_bits_at_a_time(name):
    assert_compiles_well(name, every_access_wide=False)

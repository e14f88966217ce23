"""PolyGLU mixing equals its definition in fp64, at any temperature, without a [B, T, F, K] tensor; the Triton form
equals the reference and moves no more than it must."""

import pytest
import torch
import torch.nn.functional as F
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
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from athanor.kernels.kind import choice, interpreted
from athanor.kernels.polyglu import CHUNKS, KERNEL, _unnormalised_weights, polyglu, polyglu_reference


def reference(u, v, static, dynamic):
    weights = (static[:, None] + dynamic[:, :, None]).softmax(-1)
    values = torch.stack((F.relu(u), u.tanh(), F.silu(u), F.gelu(u)), dim=-1)
    return v * (weights * values).sum(-1)


def arguments(rows, length, width, *, static_rows, dynamic_length, static_scale=1.0, dynamic_scale=1.0, seed=0):
    generator = torch.Generator().manual_seed(seed)
    shapes = ((rows, length, width), (rows, length, width), (static_rows, width, 4), (rows, dynamic_length, 4))
    scales = (1.0, 1.0, static_scale, dynamic_scale)
    return [
        torch.randn(shape, generator=generator, dtype=torch.float64) * scale
        for shape, scale in zip(shapes, scales, strict=True)
    ]


class LargestTensor(TorchDispatchMode):
    """Elements of the largest tensor any operation returns."""

    largest = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        found = func(*args, **(kwargs or {}))
        sizes = [x.numel() for x in tree_leaves(found) if isinstance(x, torch.Tensor)]
        self.largest = max([self.largest, *sizes])
        return found


@settings(max_examples=15, deadline=None)
@given(
    st.integers(1, 3),
    st.integers(1, 9),
    st.integers(1, 5),
    st.booleans(),
    st.booleans(),
    st.sampled_from([1, 12, 2**17]),
)
def test_output_and_gradients_equal_the_definition(rows, length, width, noisy, sequence, chunk):
    static_rows, dynamic_length = rows if noisy else 1, 1 if sequence else length
    inputs = arguments(rows, length, width, static_rows=static_rows, dynamic_length=dynamic_length)
    with CHUNKS.instead(chunk):
        found, found_grads = outputs(polyglu, inputs)
    wanted, wanted_grads = outputs(reference, inputs)
    torch.testing.assert_close(found, wanted)
    torch.testing.assert_close(found_grads, wanted_grads)


def outputs(op, inputs):
    inputs = [x.clone().requires_grad_() for x in inputs]
    y = op(*inputs)
    return y.detach(), torch.autograd.grad(y.sin().sum(), inputs)


@pytest.mark.parametrize("dynamic_sd", [8.0, 20.0])
def test_cold_temperature_with_wide_logits_stays_finite_and_right_in_fp32(dynamic_sd):
    tau = 0.1
    inputs = arguments(
        2, 64, 32, static_rows=2, dynamic_length=64, static_scale=4.0 / tau, dynamic_scale=dynamic_sd / tau
    )
    inputs = [x.float() for x in inputs]
    found, found_grads = outputs(polyglu, inputs)
    wanted, wanted_grads = outputs(reference, [x.double() for x in inputs])
    assert all(x.isfinite().all() for x in (found, *found_grads))
    torch.testing.assert_close(found.double(), wanted, atol=1e-4, rtol=1e-4)
    for grad, exact in zip(found_grads, wanted_grads, strict=True):
        torch.testing.assert_close(grad.double(), exact, atol=1e-3, rtol=1e-3)


def test_gelu_is_erf_and_the_order_of_activations_is_fixed():
    u = torch.linspace(-3, 3, 7)[None, :, None]
    for k, activation in enumerate((F.relu, torch.tanh, F.silu, lambda x: F.gelu(x, approximate="none"))):
        only_k = torch.full((1, 1, 4), -1e4)
        only_k[..., k] = 0.0
        torch.testing.assert_close(polyglu(u, torch.ones_like(u), only_k, torch.zeros(1, 1, 4)), activation(u))


def test_no_tensor_with_an_activation_axis_is_ever_made_or_saved():
    rows, length, width = 2, 256, 512
    inputs = arguments(rows, length, width, static_rows=rows, dynamic_length=length)
    inputs = [x.float().requires_grad_() for x in inputs]
    saved = []
    with LargestTensor() as mode, torch.autograd.graph.saved_tensors_hooks(lambda x: saved.append(x) or x, lambda x: x):
        polyglu(*inputs).sum().backward()
    assert mode.largest <= rows * length * width
    assert sum(x.numel() for x in saved) <= 2 * rows * length * width + rows * width * 4 + rows * length * 4


def test_bf16_activations_agree_with_fp32():
    inputs = [x.float() for x in arguments(2, 16, 8, static_rows=1, dynamic_length=16)]
    low = polyglu(inputs[0].bfloat16(), inputs[1].bfloat16(), *inputs[2:])
    assert low.dtype == torch.bfloat16
    torch.testing.assert_close(low.float(), polyglu(*inputs), atol=0.05, rtol=0.02)


def test_no_weight_is_below_the_normal_numbers_where_logits_span_hundreds() -> None:
    """Exponentials that end there cost a CPU ten times as much as the others."""
    static = [torch.full((1, 1, 2), logit) for logit in (0.0, -80.0, -100.0, -500.0)]
    weights, _ = _unnormalised_weights(static, [torch.zeros(1, 3, 1)] * 4)
    assert all(weight.min() >= torch.finfo(torch.float32).tiny for weight in weights)


def stored(rows, length, width, dtype, **parts):
    """Arguments with u and v in a dtype and the logits in fp32."""
    u, v, *logits = arguments(rows, length, width, **parts)
    return u.to(dtype), v.to(dtype), *(x.float() for x in logits)


@settings(max_examples=12, deadline=None)
@given(
    data=st.data(),
    shape=st.sampled_from([(0, 3, 5), (2, 0, 5), (3, 5, 7)]),
    dtype=dtypes,
    noisy=st.booleans(),
    sequence=st.booleans(),
)
def test_values_and_gradients_in_triton_equal_the_reference(data, shape, dtype, noisy, sequence):
    u, v = data.draw(tensors(shape, 2, dtype))
    parts = {"static_rows": shape[0] if noisy else 1, "dynamic_length": 1 if sequence else shape[1]}
    assert_equals_reference(polyglu, polyglu_reference, (u, v, *stored(*shape, dtype, **parts)[2:]))


@pytest.mark.parametrize("shape", [(1, 65, 3), (1, 2, 1025)])
def test_more_than_one_span_of_positions_or_block_of_neurons_equal_the_reference(shape):
    inputs = stored(*shape, torch.float32, static_rows=1, dynamic_length=shape[1])
    assert_equals_reference(polyglu, polyglu_reference, inputs)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_extreme_gates_are_neither_nan_nor_wrong_in_triton(dtype):
    u = torch.tensor([-1e30, -200.0, -90.0, -1e-30, 0.0, 1e-30, 90.0, 200.0], dtype=dtype).repeat(1, 3, 1)
    v, *logits = stored(1, 3, 8, dtype, static_rows=1, dynamic_length=3)[1:]
    assert_equals_reference(polyglu, polyglu_reference, (u, v, *logits))


def test_one_neuron_at_one_position_has_the_numbers_of_the_reference_in_triton():
    """Its dlogit is one difference of values, which fp32 rounds: it is held to fp32's reference, not to float64's."""
    inputs = stored(1, 1, 1, torch.float32, static_rows=1, dynamic_length=1)
    with on_triton():
        found = outputs(polyglu, inputs)
    torch.testing.assert_close(found, outputs(polyglu_reference, inputs))


def test_logits_that_span_thousands_give_the_numbers_of_the_reference_in_triton():
    parts = {"static_rows": 1, "dynamic_length": 3, "static_scale": 1e3, "dynamic_scale": 1e3}
    inputs = stored(1, 3, 8, torch.float32, **parts)
    with on_triton():
        found = outputs(polyglu, inputs)
    torch.testing.assert_close(found, outputs(polyglu_reference, inputs))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("shape", "sequence"), [((1, 64, 130), False), ((1, 64, 130), True)])
def test_each_argument_is_read_once_and_each_result_written_once(shape, sequence, dtype):
    dynamic_length = 1 if sequence else shape[1]
    assert_traffic(KERNEL, polyglu, stored(*shape, dtype, static_rows=shape[0], dynamic_length=dynamic_length))


def test_in_triton_nothing_with_an_activation_axis_and_positions_and_neurons_is_made():
    shape = (2, 64, 256)
    inputs = [x.requires_grad_() for x in stored(*shape, torch.float32, static_rows=2, dynamic_length=64)]
    with LargestTensor() as mode, on_triton():
        polyglu(*inputs).sum().backward()
    assert mode.largest <= 2 * 64 * 256


def test_a_gradient_of_any_strides_is_taken_in_triton():
    inputs = [x.requires_grad_() for x in stored(2, 6, 8, torch.float32, static_rows=1, dynamic_length=6)]
    dy = torch.randn(2, 8, 6).mT
    with on_triton():
        turned = torch.autograd.grad(polyglu(*inputs), inputs, dy)
        straight = torch.autograd.grad(polyglu(*inputs), inputs, dy.contiguous())
    for ours, theirs in zip(turned, straight, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0.0, atol=0.0)


def test_torch_compile_sees_one_graph_in_triton():
    assert_one_graph(polyglu, stored(2, 5, 33, torch.float32, static_rows=2, dynamic_length=5))
    assert_one_graph(polyglu, stored(2, 5, 33, torch.float32, static_rows=1, dynamic_length=1))


@pytest.mark.parametrize("dynamic_length", [1, 3])
def test_the_reference_differentiates(dynamic_length):
    inputs = arguments(2, 3, 4, static_rows=1, dynamic_length=dynamic_length)
    assert_reference_differentiates(polyglu_reference, inputs)


def test_what_triton_cannot_take_goes_to_the_reference_and_it_says_why():
    u, v, static, dynamic = stored(2, 4, 6, torch.float32, static_rows=1, dynamic_length=4)
    with interpreted():
        assert choice(KERNEL, u, v, static, dynamic) == "Triton"
        assert (
            choice(KERNEL, *(x.double() for x in (u, v, static, dynamic))) == "reference: float64 is computed by torch"
        )
        assert choice(KERNEL, u, v.bfloat16(), static, dynamic) == "reference: gate and value differ in shape or dtype"
        assert choice(KERNEL, u, v, static.double(), dynamic) == "reference: the logits are not fp32"
        turned = u.mT.contiguous().mT
        assert choice(KERNEL, turned, v, static, dynamic) == "reference: the elements of a row do not lie side by side"
        wanted = polyglu_reference(turned, v, static, dynamic)
        torch.testing.assert_close(polyglu(turned, v, static, dynamic), wanted, rtol=0.0, atol=0.0)


def test_compiled_for_a_gpu_it_spills_nothing_and_moves_128_bits_at_a_time():
    assert_compiles_well("polyglu", every_access_wide=False)

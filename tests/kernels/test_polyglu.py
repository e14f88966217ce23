"""PolyGLU mixing equals its definition in fp64, at any temperature, without a [B, T, F, K] tensor."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from athanor.kernels.polyglu import CHUNKS, _unnormalised_weights, polyglu


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

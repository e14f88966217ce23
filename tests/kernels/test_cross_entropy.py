"""The head's loss equals plain cross-entropy and never holds the logits of all positions; no more does sampling."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_checks import (
    assert_compiles_well,
    assert_equals_reference,
    assert_near,
    assert_one_graph,
    on_triton,
)
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from athanor.core.targets import IGNORE
from athanor.kernels.cross_entropy import (
    CHUNKS,
    KERNEL,
    LANE,
    _loss_and_gradient,
    _padded,
    _pass,
    linear_cross_entropy,
    linear_cross_entropy_reference,
    pass_cost,
    sample_classes,
)
from athanor.kernels.kind import choice, interpreted


@pytest.fixture
def small_chunks():
    with CHUNKS.instead(7 * 50):
        yield


def example(positions=40, vocab=50, width=8, dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    h = torch.randn(positions, width, generator=generator).to(dtype).requires_grad_()
    weight = torch.randn(vocab, width, generator=generator).to(dtype).requires_grad_()
    target = torch.randint(0, vocab, (positions,), generator=generator)
    target[::5] = IGNORE
    return h, weight, target


def padded(classes):
    return -(-classes // LANE) * LANE


def plain(h, weight, target, cap=None, smoothing=0.0):
    logits = F.linear(h, weight).float()
    logits = logits if cap is None else cap * (logits / cap).tanh()
    return F.cross_entropy(logits, target, ignore_index=IGNORE, reduction="sum", label_smoothing=smoothing)


@pytest.mark.parametrize("smoothing", [0.0, 0.3])
@pytest.mark.parametrize("cap", [None, 1.5])
@pytest.mark.usefixtures("small_chunks")
def test_loss_and_gradients_equal_the_plain_ones(cap, smoothing):
    h, weight, target = example()
    found, wanted = (f(h, weight, target, cap, smoothing) for f in (linear_cross_entropy, plain))
    torch.testing.assert_close(found, wanted)
    # The loss is scaled before backward, as the trainer scales it by the number of targets.
    torch.testing.assert_close(
        torch.autograd.grad(found / 32, (h, weight)), torch.autograd.grad(wanted / 32, (h, weight))
    )


@pytest.mark.usefixtures("small_chunks")
def test_ignored_positions_count_nothing_and_get_no_gradient():
    h, weight, target = example()
    changed = torch.where((target == IGNORE)[:, None], 1e3 * torch.ones_like(h), h).detach().requires_grad_()
    loss = linear_cross_entropy(changed, weight, target)
    torch.testing.assert_close(loss, linear_cross_entropy(h, weight, target))
    assert not torch.autograd.grad(loss, changed)[0][target == IGNORE].any()


def test_all_positions_ignored_is_zero_with_zero_gradient():
    h, weight, target = example()
    loss = linear_cross_entropy(h, weight, torch.full_like(target, IGNORE))
    assert loss.item() == 0.0
    assert not torch.autograd.grad(loss, weight)[0].any()


@pytest.mark.usefixtures("small_chunks")
def test_nothing_larger_than_a_chunk_of_logits_or_an_argument_ever_lives():
    class Largest(TorchDispatchMode):
        elements = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            found = func(*args, **(kwargs or {}))
            sizes = [x.numel() for x in tree_leaves(found) if isinstance(x, torch.Tensor)]
            self.elements = max([self.elements, *sizes])
            return found

    h, weight, target = example()
    with Largest() as mode:
        linear_cross_entropy(h, weight, target).backward()
    assert mode.elements <= max(h.numel(), weight.numel(), 7 * 50) < 40 * 50


@pytest.mark.usefixtures("small_chunks")
def test_bf16_autocast_is_within_tolerance_and_keeps_fp32_gradients():
    h, weight, target = example()
    wanted = plain(h, weight, target)
    with torch.autocast("cpu", torch.bfloat16):
        found = linear_cross_entropy(h, weight, target)
    grads = torch.autograd.grad(found, (h, weight))
    assert found.dtype == grads[0].dtype == grads[1].dtype == torch.float32
    torch.testing.assert_close(found, wanted, rtol=0.01, atol=0.0)
    torch.testing.assert_close(grads[1], torch.autograd.grad(wanted, (h, weight))[1], rtol=0.1, atol=0.1)


@pytest.mark.usefixtures("small_chunks")
def test_classes_are_drawn_from_the_softmax_by_inverting_its_distribution():
    h, weight, _ = example()
    cumulative = F.linear(h, weight).double().softmax(1).cumsum(1)
    drawn = sample_classes(h, weight, torch.full((40,), 0.3, dtype=torch.float64))
    assert drawn.tolist() == [(row < 0.3).sum().item() for row in cumulative]
    even = (torch.arange(2000) + 0.5).double() / 2000
    share = sample_classes(h[:1].expand(2000, -1), weight, even).bincount(minlength=50) / 2000
    torch.testing.assert_close(share, F.linear(h[0], weight).softmax(0), rtol=0, atol=6e-4)


def test_the_ends_of_the_distribution_are_classes_that_can_be_drawn():
    h, weight = torch.ones(2, 1), torch.tensor([[-200.0], [0.0], [0.0], [-200.0]])
    ends = torch.tensor([2.0**-53, 1 - 2.0**-53], dtype=torch.float64)
    assert sample_classes(h, weight, ends).tolist() == [1, 2]


@pytest.mark.parametrize("smoothing", [0.0, 0.3])
@pytest.mark.parametrize("cap", [None, 1.5])
@pytest.mark.parametrize("vocab", [50, 64, 4103])
def test_the_pass_over_the_logits_equals_the_reference(cap, smoothing, vocab):
    h, weight, target = example(vocab=vocab)
    with CHUNKS.instead(7 * vocab):
        assert_equals_reference(
            linear_cross_entropy, linear_cross_entropy_reference, (h, weight, target, cap, smoothing)
        )


@settings(max_examples=15, deadline=None)
@given(positions=st.sampled_from([0, 1, 3, 17]), vocab=st.integers(1, 40), seed=st.integers(0, 99))
def test_losses_and_gradients_of_any_shape_equal_the_reference(positions, vocab, seed):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(positions, padded(vocab), generator=generator).mul(20)
    target = torch.randint(0, vocab, (positions,), generator=generator)
    target[::3] = IGNORE
    wanted, gradient = _loss_and_gradient(logits[:, :vocab].double(), target, 30.0, 0.1, True)
    with on_triton():
        losses = _pass(logits, target, vocab, 30.0, 0.1, True)
    torch.testing.assert_close(losses.sum().double(), wanted, rtol=2e-6, atol=1e-5)  # of logits up to 30
    torch.testing.assert_close(logits[:, :vocab].double(), gradient, rtol=1e-5, atol=2e-6)
    assert not losses[::3].any() and not logits[::3, :vocab].any()
    assert not logits[:, vocab:].any(), "what is padded has no gradient"


def test_bf16_logits_become_their_gradient_within_the_rounding_of_its_storage():
    logits = torch.randn(6, padded(130), generator=torch.Generator().manual_seed(0)).mul(5).bfloat16()
    target = torch.tensor([0, 5, 129, IGNORE, 64, 7])
    wanted, gradient = _loss_and_gradient(logits[:, :130].double(), target, None, 0.0, True)
    with on_triton():
        losses = _pass(logits, target, 130, None, 0.0, True)
    torch.testing.assert_close(losses.sum().double(), wanted, rtol=1e-6, atol=0.0)
    assert_near(logits[:, :130], gradient)


def test_logits_of_any_size_neither_overflow_nor_lose_the_loss():
    logits = torch.tensor([[3e4, -3e4, 0.0], [-3e38, -3e38, -3e38], [88.0, 89.0, 3e38]])
    found = torch.full((3, 16), float("nan"))
    found[:, :3] = logits
    target = torch.tensor([1, 2, 2])
    with on_triton():
        losses = _pass(found, target, 3, None, 0.0, True)
    wanted, gradient = _loss_and_gradient(logits.double(), target, None, 0.0, True)
    torch.testing.assert_close(losses.sum().double(), wanted, rtol=1e-6, atol=0.0)
    torch.testing.assert_close(found[:, :3].double(), gradient, rtol=1e-6, atol=1e-7)


def test_the_largest_logit_may_stand_in_the_last_block():
    logits = torch.zeros(1, padded(4103))
    logits[0, 4100] = 3.0
    wanted, gradient = _loss_and_gradient(logits[:, :4103].double(), torch.tensor([7]), None, 0.0, True)
    with on_triton():
        losses = _pass(logits, torch.tensor([7]), 4103, None, 0.0, True)
    torch.testing.assert_close(losses.sum().double(), wanted, rtol=1e-6, atol=0.0)
    torch.testing.assert_close(logits[:, :4103].double(), gradient, rtol=1e-5, atol=1e-9)


@pytest.mark.usefixtures("small_chunks")
def test_no_product_on_a_gpu_has_an_odd_number_of_classes():
    sizes = set()

    class Products(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            if func is torch.ops.aten.mm.default:
                sizes.update(args[0].shape, args[1].shape)
            return func(*args, **(kwargs or {}))

    h, weight, target = example()
    with on_triton(), Products():
        linear_cross_entropy(h, weight, target).backward()
    assert sizes == {7, 5, 8, 64}, "positions of a chunk and of the last, channels, 50 classes padded"
    assert weight.grad.shape == weight.shape
    assert torch.equal(_padded(weight, torch.bfloat16)[:50], weight.bfloat16())
    assert not _padded(weight, torch.bfloat16)[50:].any() and _padded(weight[:48], torch.bfloat16).shape == (48, 8)


@pytest.mark.parametrize("gradient", [True, False])
def test_logits_are_read_twice_and_written_once_or_only_read(gradient):
    logits = torch.randn(5, padded(4103)).bfloat16()
    with on_triton() as traffic:
        _pass(logits, torch.arange(5), 4103, None, 0.0, gradient)
    least = pass_cost(5, 4103, 2, gradient)
    assert least.read_bytes <= traffic.read_bytes <= 1.05 * least.read_bytes
    assert least.written_bytes <= traffic.written_bytes <= 1.05 * least.written_bytes
    assert traffic.launches == 1


def test_without_a_gradient_to_take_the_logits_are_only_read():
    h, weight, target = (x.detach() for x in example(vocab=4103))
    with on_triton() as traffic:
        linear_cross_entropy(h, weight, target)
    assert traffic.written_bytes == 4 * len(target)


@pytest.mark.usefixtures("small_chunks")
def test_torch_compile_sees_one_graph():
    h, weight, target = example()
    assert_one_graph(lambda *arguments: linear_cross_entropy(*arguments, 1.5, 0.1), (h, weight, target))


def test_fp64_goes_to_the_reference():
    h, weight, target = example(dtype=torch.float64)
    with interpreted():
        assert choice(KERNEL, h, weight, target) == "reference: float64 is computed by torch"
        assert choice(KERNEL, h.float(), weight.float(), target) == "Triton"


def test_compiled_for_a_gpu_it_spills_nothing_and_moves_128_bits_at_a_time():
    assert_compiles_well("linear_cross_entropy", every_access_wide=False)

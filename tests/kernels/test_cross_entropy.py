"""The head's loss equals plain cross-entropy and never holds the logits of all positions; no more does sampling."""

import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from athanor.core.targets import IGNORE
from athanor.kernels.cross_entropy import CHUNKS, linear_cross_entropy, sample_classes


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

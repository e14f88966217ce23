"""On a GPU a model computes what it computes on a CPU."""

import pytest
import torch

pytestmark = pytest.mark.gpu

TOKENS = 24
NEAR = 1e-5  # relative; the weights are fp64, but tables of angles and routers compute in fp32
BF16 = 0.02  # relative, of a loss


def rows(device):
    ids = torch.randint(1, 61, (3, TOKENS), generator=torch.Generator().manual_seed(0))
    doc_start = torch.where(torch.arange(TOKENS) >= 9, 9, 0).expand(3, TOKENS).contiguous()
    return tuple(x.to(device) for x in (ids, ids.roll(-1, 1), doc_start, torch.arange(3), torch.tensor([0, 1, 0])))


def trained(model, device):
    """Loss and gradients of one step, on the CPU."""
    model = model.to(device).train()
    model.begin_training(["one", "two"])
    loss = model.loss(*rows(device))
    torch.stack([loss.total / loss.tokens, *loss.aux.values()]).sum().backward()
    gradients = [p.grad.flatten().cpu() for p in model.parameters() if p.grad is not None]
    return loss.total.detach().cpu(), torch.cat(gradients)


def test_the_loss_and_its_gradients_are_those_of_the_cpu(mode, lively_model):
    expected = trained(lively_model(mode).double(), "cpu")
    found = trained(lively_model(mode).double(), "cuda")
    for value, wanted in zip(found, expected, strict=True):
        assert (value - wanted).norm() <= NEAR * wanted.norm()


def test_bf16_is_near(mode, lively_model):
    expected, _ = trained(lively_model(mode), "cpu")
    with torch.autocast("cuda", torch.bfloat16):
        found, _ = trained(lively_model(mode), "cuda")
    assert found.item() == pytest.approx(expected.item(), rel=BF16)


@torch.no_grad()
def test_cached_decoding_equals_the_full_forward(mode, lively_model):
    model, (ids, *_) = lively_model(mode).double().cuda(), rows("cuda")
    if not model.cacheable:
        pytest.skip("computes from whole rows")
    cache = model.new_cache(3)
    pieces = [model(piece, cache=cache) for piece in ids.split([TOKENS - 4, 1, 3], dim=1)]
    torch.testing.assert_close(torch.cat(pieces, dim=1), model(ids), atol=NEAR, rtol=NEAR)

"""Latent attention: absorbed exactly, only a slice of it turns, its past never expanded."""

import pytest
import torch
from visibility import doc_start

from athanor.kernels.rope import rope_table
from athanor.kernels.span import Span


def random_ids(rows, length, seed=0):
    return torch.randint(1, 61, (rows, length), generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def test_only_the_rope_slice_of_a_latent_head_turns(model_of):
    attention = model_of().blocks[2].attention
    x = torch.randn(1, 6, 24, generator=torch.Generator().manual_seed(0))
    moved, unmoved = (rope_table(torch.arange(6)[None] + offset, 4, 10_000.0) for offset in (7, 0))
    for a, b in zip(attention.queries_keys(x, moved), attention.queries_keys(x, unmoved), strict=True):
        assert torch.equal(a[..., :4], b[..., :4])
        assert (a[..., 4:] - b[..., 4:]).abs().max() > 0.1


@pytest.mark.parametrize("q_rank", [0, 5])
@torch.no_grad()
def test_absorbed_equals_materialised_whatever_is_visible(model_of, q_rank):
    attention = model_of(q_rank=q_rank).blocks[2].attention
    x = torch.randn(2, 9, 24, generator=torch.Generator().manual_seed(0))
    rope = rope_table(torch.arange(9)[None], 4, 10_000.0)
    parts = *attention.queries(x, rope), *attention.latents(x, rope)
    for span in (None, Span(doc_start([4, 5]))):
        absorbed, materialised = attention.absorbed(*parts, span), attention.materialised(*parts, span)
        torch.testing.assert_close(absorbed, materialised, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_decoding_absorbs_and_never_expands_the_past(model_of):
    model, expanded = model_of(), []
    model.blocks[2].attention.kv_expand.register_forward_hook(lambda _m, args, _o: expanded.append(args[0].shape[1]))
    cache = model.new_cache(1)
    for piece in random_ids(1, 12).split([5, 1, 1, 3, 2], dim=1):
        model(piece, cache=cache)
    assert expanded == [5]

"""Absorbed latent attention is its formula: one key of two parts for all heads, which is the value too."""

import pytest
import torch
from definitions import STARTS, attention, in_document

from athanor.kernels.latent_attention import latent_attention
from athanor.kernels.span import Span

LENGTH, HEADS, RANK, ROTATED = len(STARTS), 3, 5, 2


@pytest.mark.parametrize(
    ("starts", "newest"), [(STARTS, LENGTH), ([0] * LENGTH, LENGTH), (STARTS, 3), ([0] * LENGTH, 1)]
)
def test_it_is_its_formula(starts, newest):
    generator = torch.Generator().manual_seed(0)
    shapes = ((LENGTH, HEADS, RANK), (LENGTH, HEADS, ROTATED), (LENGTH, RANK), (LENGTH, ROTATED))
    q_latent, q_rope, c, k_rope = (torch.randn(shape, generator=generator).double() for shape in shapes)
    span = None if starts == [0] * LENGTH else Span(torch.tensor([starts])[:, -newest:], LENGTH - newest)
    found = latent_attention(q_latent[None, -newest:], q_rope[None, -newest:], c[None], k_rope[None], span, 0.4)
    q, k = torch.cat((q_latent, q_rope), dim=-1), torch.cat((c, k_rope), dim=-1)
    wanted = attention(q, k[:, None], c[:, None], in_document(starts), scale=0.4)
    torch.testing.assert_close(found[0].flatten(1), wanted[-newest:], rtol=1e-5, atol=1e-5)


def test_without_a_span_the_newest_queries_see_what_precedes_them():
    generator = torch.Generator().manual_seed(0)
    shapes = ((1, LENGTH, HEADS, RANK), (1, LENGTH, HEADS, ROTATED), (1, LENGTH, RANK), (1, LENGTH, ROTATED))
    q_latent, q_rope, c, k_rope = (torch.randn(shape, generator=generator) for shape in shapes)
    newest, whole = (latent_attention(q_latent[:, -n:], q_rope[:, -n:], c, k_rope, None, 0.4) for n in (3, LENGTH))
    torch.testing.assert_close(newest, whole[:, -3:])

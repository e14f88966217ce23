"""Rotations are the angles of the paper, in both pairings, at any base, position and scaling."""

import pytest
import torch
from definitions import rope

from athanor.kernels.rope import rope_table, rotate_half_split, rotate_interleaved

ROTATIONS = {"half-split": rotate_half_split, "interleaved": rotate_interleaved}
POSITIONS = [0, 1, 2, 7, 63, 500]


@pytest.mark.parametrize("pairing", ROTATIONS)
@pytest.mark.parametrize(("base", "factor"), [(10_000.0, 1.0), (50.0, 1.0), (10_000.0, 4.0)])
def test_every_pair_turns_by_its_angle(pairing, base, factor):
    x = torch.randn(6, 3, 8, generator=torch.Generator().manual_seed(0)).double()
    table = rope_table(torch.tensor([POSITIONS]), 8, base, factor)
    found = ROTATIONS[pairing](x[None], table)[0]
    torch.testing.assert_close(found, rope(x, POSITIONS, base, pairing, factor), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("pairing", ROTATIONS)
def test_scores_depend_on_the_distance_alone(pairing):
    q, k = torch.randn(2, 1, 1, 1, 8, generator=torch.Generator().manual_seed(0))
    rotate = ROTATIONS[pairing]

    def score(i, j):
        at = [rope_table(torch.tensor([[position]]), 8, 10_000.0) for position in (i, j)]
        return float((rotate(q, at[0]) * rotate(k, at[1])).sum())

    assert score(9, 4) == pytest.approx(score(105, 100), abs=1e-5)
    assert abs(score(9, 4) - score(4, 9)) > 1e-3


@pytest.mark.parametrize("head_dim", [24, 64, 96])
def test_frequencies_are_rounded_as_in_published_checkpoints(head_dim):
    """Their tables are 1 / base^(2i/d) in fp32, cosines and sines of the product with the position."""
    power = torch.tensor(50_000.0) ** (torch.arange(0, head_dim, 2).float() / head_dim)
    angles = torch.outer(torch.arange(4096).float(), 1.0 / power)
    found = rope_table(torch.arange(4096)[None], head_dim, 50_000.0)[:, 0]
    assert torch.equal(found, torch.stack((angles.cos(), angles.sin())))

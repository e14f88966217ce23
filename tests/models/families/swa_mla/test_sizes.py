"""The published shapes have their true counts."""

import pytest

from athanor.models.counts import cache_bytes_per_token, parameter_counts
from athanor.models.families.swa_mla.sizes import SIZES


@pytest.mark.parametrize(
    ("name", "total"),
    [("small", 262_516_736), ("base", 982_981_632), ("large", 1_940_808_192), ("xl", 8_578_479_104)],
)
def test_sizes_have_their_true_counts(name, total):
    assert parameter_counts(SIZES[f"swa-mla-{name}"])["total"] == total


def test_a_context_costs_its_latents_and_a_fixed_window():
    """320 numbers a token and latent layer, in bf16; keys and values of 260 positions a window layer."""
    recipe = SIZES["swa-mla-small"]
    short, long = (cache_bytes_per_token(recipe, tokens) * tokens for tokens in (1024, 2048))
    assert (long - short) / 1024 == 4 * 320 * 2
    assert short - 1024 * 4 * 320 * 2 == 8 * (256 + 4) * 2 * 1024 * 2

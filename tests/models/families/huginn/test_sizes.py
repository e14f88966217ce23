"""The sizes of the registry have their published counts."""

import pytest
import torch

from athanor.models.build import build_model
from athanor.models.counts import parameter_counts
from athanor.models.families.huginn.sizes import SIZES

COUNTS = {
    "nebel-raven-3.5b": 3_564_976_800,
    "corone-raven-3.5b": 3_564_892_320,
    "merseburg-raven-3.5b": 3_508_961_280,
    "deluge-raven-4b": 4_426_421_120,
    "tower-raven-3b": 2_281_803_776,
    "kolk-raven-1.1b": 1_275_121_664,
    "corax-raven-800m": 939_560_960,
    "magpie-150m": 157_168_640,
    "baby-recurrent-200m": 134_755_328,
    "debug-recurrent": 18_352_384,
    "huginn-tiny": 1_019_008,
}


@pytest.mark.parametrize("name", COUNTS)
def test_sizes_have_their_published_counts(name):
    assert parameter_counts(SIZES[name])["total"] == COUNTS[name]


@pytest.mark.parametrize(("name", "core"), [("nebel-raven-3.5b", 1_581_592_320), ("magpie-150m", 60_039_168)])
def test_cores_have_their_published_counts(name, core):
    with torch.device("meta"):
        model = build_model(SIZES[name])
    assert sum(p.numel() for p in model.core.blocks.parameters()) == core


def test_recurrent_sizes_are_all_here_and_baselines_are_vanilla():
    assert {name for name, recipe in SIZES.items() if recipe.family == "huginn"} == COUNTS.keys()
    assert {recipe.family for recipe in SIZES.values()} == {"huginn", "vanilla"}


def test_the_released_cache_takes_2_79_megabytes_a_token():
    with torch.device("meta"):
        model = build_model(SIZES["nebel-raven-3.5b"])
    assert model.cache_bytes_per_token(4096) == pytest.approx(132 * 2 * 5280 * 2, rel=1e-4)

"""Noise is a pure function of (row key, stream, index), with the promised distribution."""

import math

import pytest
import torch

import athanor.kernels.noise as module
from athanor.kernels.noise import gumbel, hash_bits, keys_at, truncated_normal, uniform

KEYS = torch.tensor([0, 1, -5, 2**62, -(2**63)])


def splitmix(x):
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) % 2**64
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) % 2**64
    return x ^ (x >> 31)


def test_bits_equal_splitmix64_in_whole_number_arithmetic():
    golden = 0x9E3779B97F4A7C15
    found = hash_bits(KEYS, 3, 4)
    for row, key in enumerate(KEYS.tolist()):
        for i in range(4):
            wanted = splitmix((splitmix((key + golden * 4) % 2**64) + golden * (i + 1)) % 2**64)
            assert found[row, i].item() % 2**64 == wanted


def test_a_row_has_the_same_noise_in_any_micro_batch_and_length():
    whole = gumbel(KEYS, 2, 50)
    for row in range(len(KEYS)):
        assert torch.equal(gumbel(KEYS[row : row + 1], 2, 50)[0], whole[row])
    assert torch.equal(gumbel(KEYS, 2, 20), whole[:, :20])


def test_streams_and_keys_are_independent():
    a, b = uniform(KEYS, 0, 4000) - 0.5, uniform(KEYS, 1, 4000) - 0.5
    variance = 1 / 12
    assert abs((a * b).mean()) < 5 * variance / math.sqrt(a.numel())
    assert abs((a[1:] * a[:-1]).mean()) < 5 * variance / math.sqrt(4 * 4000)


def test_global_seed_is_neither_read_nor_moved():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    first = gumbel(KEYS, 0, 8)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(1)
    assert torch.equal(gumbel(KEYS, 0, 8), first)


def test_gumbel_has_its_mean_and_variance_and_is_finite():
    noise = gumbel(torch.arange(50), 7, 4000).double()
    assert noise.isfinite().all()
    assert abs(noise.mean() - 0.5772157) < 0.02
    assert abs(noise.var() - math.pi**2 / 6) < 0.05


@pytest.mark.parametrize("cut", [1.0, 3.0])
def test_truncated_normal_has_its_distribution_and_stays_within_its_cut(cut):
    noise = truncated_normal(torch.arange(50), 7, 4000, cut).double()
    assert noise.abs().max() <= cut
    assert abs(noise.mean()) < 0.01
    inside = math.erf(cut / math.sqrt(2))
    below = 0.5 + math.erf(0.5 / math.sqrt(2)) / (2 * inside)  # P(noise < 1/2)
    assert abs((noise < 0.5).double().mean() - below) < 0.005
    density = math.exp(-(cut**2) / 2) / math.sqrt(2 * math.pi)
    assert abs(noise.var() - (1 - 2 * cut * density / inside)) < 0.01


def test_keys_of_positions_depend_on_row_and_position_alone_and_differ():
    position = torch.tensor([[0, 1, 2, 0, 1], [5, 6, 7, 8, 9]])
    keys = keys_at(KEYS[:2, None], position)
    assert torch.equal(keys[0, :2], keys[0, 3:])
    assert torch.equal(keys[1:], keys_at(KEYS[1:2, None], position[1:]))
    assert len(keys_at(KEYS[:, None], torch.arange(100)[None]).unique()) == 500


@pytest.mark.parametrize("bits", [0, -1])
def test_extreme_bits_stay_inside_the_open_interval(monkeypatch, bits):
    monkeypatch.setattr(module, "hash_bits", lambda key_B, stream, count: torch.full((1, count), bits))
    assert 0.0 < uniform(KEYS, 0, 1).item() < 1.0
    assert gumbel(KEYS, 0, 1).isfinite()

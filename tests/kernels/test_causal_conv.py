"""Two causal convolutions equal torch's behind one left padding, document by document and piece by piece."""

import pytest
import torch
import torch.nn.functional as F

from athanor.kernels.causal_conv import causal_conv_pair

HEADS, WIDTH = 3, 4
shapes = pytest.mark.parametrize(
    ("taps_1", "taps_2", "bias"), [(3, 1, False), (3, 3, True), (1, 2, True), (2, 4, False)]
)


def weights(taps_1, taps_2, bias, seed=0):
    generator, channels = torch.Generator().manual_seed(seed), HEADS * WIDTH
    sizes = [(channels, 1, taps_1), (channels,), (channels, WIDTH, taps_2), (channels,)]
    w1, b1, w2, b2 = (torch.randn(size, generator=generator, dtype=torch.float64) for size in sizes)
    return (w1, b1, w2, b2) if bias else (w1, None, w2, None)


def inputs(length, rows=2):
    return torch.randn(rows, length, HEADS * WIDTH, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def published(x, w1, b1, w2, b2):
    reach = w1.shape[-1] + w2.shape[-1] - 2
    padded = F.pad(x.transpose(1, 2), (reach, 0))
    return F.conv1d(F.conv1d(padded, w1, b1, groups=x.shape[2]), w2, b2, groups=HEADS).transpose(1, 2)


def ours(x, age, w1, b1, w2, b2, earlier=None):
    reach = w1.shape[-1] + w2.shape[-1] - 2
    earlier = torch.full((x.shape[0], reach, x.shape[2]), torch.nan, dtype=x.dtype) if earlier is None else earlier
    return causal_conv_pair(torch.cat((earlier, x), dim=1), age.expand(x.shape[:2]), w1[:, 0], b1, w2, b2)


@shapes
def test_a_document_equals_torch_behind_one_zero_padding(taps_1, taps_2, bias):
    x, given = inputs(9), weights(taps_1, taps_2, bias)
    torch.testing.assert_close(ours(x, torch.arange(9), *given), published(x, *given))


@shapes
def test_a_packed_document_equals_itself_alone(taps_1, taps_2, bias):
    x, given, lengths = inputs(11), weights(taps_1, taps_2, bias), [1, 4, 1, 5]
    age = torch.cat([torch.arange(n) for n in lengths])
    alone = [published(piece, *given) for piece in x.split(lengths, dim=1)]
    torch.testing.assert_close(ours(x, age, *given), torch.cat(alone, dim=1))


@shapes
def test_pieces_with_the_rows_before_them_equal_the_whole(taps_1, taps_2, bias):
    x, given, reach = inputs(11), weights(taps_1, taps_2, bias), taps_1 + taps_2 - 2
    age = torch.cat([torch.arange(n) for n in (6, 5)])
    whole, start = ours(x, age, *given), 0
    before = torch.cat((torch.zeros_like(x[:, :reach]), x), dim=1)
    for piece in (3, 1, 1, 2, 4):
        span = slice(start, start + piece)
        found = ours(x[:, span], age[span], *given, earlier=before[:, start : start + reach])
        torch.testing.assert_close(found, whole[:, span])
        start += piece

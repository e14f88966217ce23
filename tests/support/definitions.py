"""What the papers write, in float64, one token and one head after the other; nothing here is the package's.

A row is `[T, ...]`. `starts[i]` is where the document of position i begins, `i - starts[i]` its position within it.
"""

import math
from statistics import NormalDist

import torch

LENGTHS = (7, 1, 4)  # documents of the row that definitions are compared on
STARTS = [0, 0, 0, 0, 0, 0, 0, 7, 8, 8, 8, 8]
IDS = [5, 17, 3, 60, 5, 22, 41, 9, 3, 5, 33, 58]


class Weights:
    """A model's parameters and buffers by name, in float64, and its matrices applied."""

    def __init__(self, model, grad=False):
        named = {**dict(model.named_parameters()), **dict(model.named_buffers())}
        self.tensors = {name: x.detach().double().requires_grad_(grad) for name, x in named.items()}

    def __contains__(self, name):
        return name in self.tensors

    def __getitem__(self, name):
        return self.tensors[name]

    def linear(self, name, x):
        """W x, and + b where there is one."""
        y = x @ self[f"{name}.weight"].T
        return y + self[f"{name}.bias"] if f"{name}.bias" in self else y


def compared(model, by_definition, *arguments, row_key=None, starts=STARTS, rtol=2e-5, atol=2e-5):
    """The model's logits of one packed row are the definition's. Norms, rotations and routing are fp32 in a model of
    float64 parameters too, so the last digits of fp32 are allowed to differ."""
    key = None if row_key is None else torch.tensor([row_key])
    with torch.no_grad():
        found = model(torch.tensor([IDS]), torch.tensor([starts]), key)[0]
        wanted = by_definition(model, *arguments)
    torch.testing.assert_close(found.double(), wanted, rtol=rtol, atol=atol)


# Norms ------------------------------------------------------------------------------------------------------------


def rms_norm(x, gain, eps):
    """x * gain / sqrt(mean(x^2) + eps) over the last axis."""
    y = x / ((x * x).sum(-1, keepdim=True) / x.shape[-1] + eps).sqrt()
    return y if gain is None else y * gain


def layer_norm(x, gain, bias, eps=1e-5):
    """(x - mean) * gain / sqrt(variance + eps) + bias over the last axis."""
    centred = x - x.sum(-1, keepdim=True) / x.shape[-1]
    return centred / ((centred * centred).sum(-1, keepdim=True) / x.shape[-1] + eps).sqrt() * gain + bias


def dynamic_tanh(x, alpha, gain, bias):
    return gain * torch.tanh(alpha * x) + bias


# Activations ------------------------------------------------------------------------------------------------------


def relu(x):
    return x * (x > 0)


def sigmoid(x):
    return 1 / (1 + torch.exp(-x))


def silu(x):
    return x * sigmoid(x)


def gelu_erf(x):
    return x * (1 + torch.erf(x / math.sqrt(2))) / 2


def gelu_tanh(x):
    return x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))) / 2


def softmax(x):
    """Over the last axis."""
    e = torch.exp(x - x.max(-1, keepdim=True).values.detach())
    return e / e.sum(-1, keepdim=True)


def capped(x, cap):
    return x if cap is None else cap * torch.tanh(x / cap)


# Positions and attention ------------------------------------------------------------------------------------------


def rope(x, positions, base, pairing, factor=1.0):
    """`x [T, heads, d]`: pair number i of position p turned by the angle p / factor * base^(-2i/d)."""
    d = x.shape[-1]
    turned = []
    for t, position in enumerate(positions):
        channels = [None] * d
        for i in range(d // 2):
            a, b = (i, i + d // 2) if pairing == "half-split" else (2 * i, 2 * i + 1)
            angle = position / factor * base ** (-2 * i / d)
            channels[a] = x[t, :, a] * math.cos(angle) - x[t, :, b] * math.sin(angle)
            channels[b] = x[t, :, a] * math.sin(angle) + x[t, :, b] * math.cos(angle)
        turned.append(torch.stack(channels, dim=-1))
    return torch.stack(turned)


def in_document(starts):
    """Whether position i sees position j: not later, and of its own document."""
    return lambda i, j: starts[i] <= j <= i


def in_window(starts, window, sink=0):
    """Of these the newest `window`, i itself counted, and the first `sink` of the document."""
    return lambda i, j: starts[i] <= j <= i and (i - j < window or j - starts[i] < sink)


def attention(q, k, v, sees, cap=None, scale=None):
    """softmax(q k^T / sqrt(d)) v; query head h reads key head h // (H / G). `[T, H * dv]`."""
    share = q.shape[1] // k.shape[1]
    scale = 1 / math.sqrt(q.shape[-1]) if scale is None else scale
    rows = []
    for i in range(len(q)):
        seen = [j for j in range(len(k)) if sees(i, j)]
        heads = []
        for h in range(q.shape[1]):
            scores = torch.stack([(q[i, h] * k[j, h // share]).sum() * scale for j in seen])
            weights = softmax(capped(scores, cap))
            heads.append(sum(weight * v[j, h // share] for weight, j in zip(weights, seen, strict=True)))
        rows.append(torch.cat(heads))
    return torch.stack(rows)


def positions_of(starts):
    return [i - start for i, start in enumerate(starts)]


# Losses -----------------------------------------------------------------------------------------------------------


def cross_entropy(logits, targets):
    """Sum over the positions whose target is not -100, nats."""
    return -sum(torch.log(softmax(logits[t]))[target] for t, target in enumerate(targets) if target != -100)


# Noise ------------------------------------------------------------------------------------------------------------

_GOLDEN, _WORD = 0x9E3779B97F4A7C15, 2**64


def _mix(x):
    """SplitMix64's finaliser (Steele, Lea and Flood 2014)."""
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) % _WORD
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) % _WORD
    return x ^ (x >> 31)


def uniform(key, stream, count):
    """A list of `count` numbers in (0, 1)."""
    hashed = [_mix((_mix((key + _GOLDEN * (stream + 1)) % _WORD) + _GOLDEN * (i + 1)) % _WORD) for i in range(count)]
    return [((bits >> 12) + 0.5) / 2**52 for bits in hashed]


def gumbel(key, stream, count):
    return [-math.log(-math.log(u)) for u in uniform(key, stream, count)]


def truncated_normal(key, stream, count, cut):
    """Standard normal within [-cut, cut]."""
    normal = NormalDist()
    outside = normal.cdf(-cut)
    return [normal.inv_cdf(outside + u * (1 - 2 * outside)) for u in uniform(key, stream, count)]


def key_at(key, position):
    """The key of a position of a row."""
    return _mix((_mix(key % _WORD) + (position + 1) * _GOLDEN) % _WORD)

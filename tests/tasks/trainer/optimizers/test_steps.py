"""Every optimizer against its paper, written here once more: plainly, in float64, one tensor at a time.

The references take and return moments as a dict `s`. Where an optimizer keeps moments coarser than fp32, the reference
goes on from the moments it stored, so that the rule is compared at full precision and the rounding on its own.
"""

from __future__ import annotations

import math
from functools import partial
from types import SimpleNamespace

import pytest
import torch

from athanor.tasks.trainer.optimizers.build import build_optimizer
from athanor.tasks.trainer.optimizers.kind import OPTIMIZERS
from athanor.tasks.trainer.optimizers.sophia import CURVATURE_EVERY_STEPS
from athanor.tasks.trainer.train_recipe import TrainRecipe

LR, STEPS, TARGETS = 0.01, 12, 50
SHAPES = {
    "embedding.weight": (20, 12),
    "blocks.0.wide.weight": (12, 40),
    "blocks.0.tall.weight": (70, 65),
    "blocks.0.experts.up": (3, 5, 7),
    "blocks.0.router.weight": (4, 12),
    "blocks.0.gain": (5000,),
    "final_norm.gain": (33,),
}


def adamw(p, g, s, t, o):
    s["m"] = o.beta1 * s.get("m", 0) + (1 - o.beta1) * g
    s["v"] = o.beta2 * s.get("v", 0) + (1 - o.beta2) * g**2
    m_hat, v_hat = s["m"] / (1 - o.beta1**t), s["v"] / (1 - o.beta2**t)
    return p - o.lr * o.decay * p - o.lr * m_hat / (v_hat**0.5 + o.eps)


def lion(p, g, s, t, o):
    u = torch.sign(o.beta1 * s.get("m", 0) + (1 - o.beta1) * g)
    s["m"] = o.beta2 * s.get("m", 0) + (1 - o.beta2) * g
    return p - o.lr * (u + o.decay * p)


def cautious_lion(p, g, s, t, o):
    u = torch.sign(o.beta1 * s.get("m", 0) + (1 - o.beta1) * g)
    s["m"] = o.beta2 * s.get("m", 0) + (1 - o.beta2) * g
    kept = torch.where(u * g > 0, 1.0, 0.0)
    return p - o.lr * (u * kept * p.numel() / (kept.sum() + 1) + o.decay * p)


def adafactor(p, g, s, t, o):
    beta = 1 - t**-0.8
    step = max(1e-3, p.square().mean().sqrt()) * min(o.lr, t**-0.5)
    if p.ndim > 1:
        s["row"] = beta * s.get("row", 0) + (1 - beta) * g.square().mean(-1, keepdim=True)
        s["column"] = beta * s.get("column", 0) + (1 - beta) * g.square().mean(-2, keepdim=True)
        v = s["row"] * s["column"] / s["row"].mean(-2, keepdim=True)
    else:
        v = s["v"] = beta * s.get("v", 0) + (1 - beta) * g**2
    u = g / v.sqrt()
    return p - o.lr * o.decay * p - step * u / max(1.0, u.square().mean().sqrt())


def muon(p, g, s, t, o):
    """The five products of each iteration are rounded to bf16, as the definition has it."""
    s["m"] = 0.95 * s.get("m", 0) + 0.05 * g

    def rounded(x):
        return x.bfloat16().double()

    x = rounded(0.05 * g + 0.95 * s["m"])
    tall = x.shape[0] > x.shape[1]
    x = x.T if tall else x
    x = rounded(x / rounded(x.norm()))
    for _ in range(5):
        gram = rounded(x @ x.T)
        x = rounded(3.4445 * x + rounded(-4.7750 * gram + 2.0315 * gram @ gram) @ x)
    x = x.T if tall else x
    return p - o.lr * o.decay * p - o.lr * 0.2 * math.sqrt(max(p.shape)) * x


def sophia_g(p, g, s, t, o):
    s.setdefault("h", torch.zeros_like(p))
    s["m"] = o.beta1 * s.get("m", 0) + (1 - o.beta1) * g
    ratio = s["m"] / torch.clamp(o.sophia_gamma * s["h"], min=o.eps)
    if t % CURVATURE_EVERY_STEPS == 1:
        s["h"] = o.beta2 * s["h"] + (1 - o.beta2) * TARGETS * o.sampled**2
    return p - o.lr * o.decay * p - o.lr * ratio.clamp(-1, 1)


def ellis_adam(p, g, s, t, o):
    if t == 1:
        s["m"], s["v"] = g, g**2
    s["m"] = s["m"] + (1 - o.beta1) * (g - s["m"])
    s["v"] = o.beta2 * s["v"] + (1 - o.beta2) * g**2
    eta = o.lr / max(1.0, (g**2 / s["v"].clamp(min=o.eps**2)).mean().sqrt())
    eta /= 1 - o.beta1**t
    p = p * (1 - o.lr / LR * o.decay)
    return p - eta * torch.atan2(s["m"], s["v"].sqrt() / math.sqrt(1 - o.beta2**t))


REFERENCES = {
    "adamw": adamw,
    "adamw-8bit": adamw,
    "adamw-bf16-moments": adamw,
    "lion": lion,
    "lion-8bit": lion,
    "lion-bf16-moments": lion,
    "cautious-lion": cautious_lion,
    "adafactor": adafactor,
    "muon": muon,
    "sophia-g": sophia_g,
    "ellis-adam": ellis_adam,
}
COARSE = {name for name in REFERENCES if name.endswith(("8bit", "bf16-moments"))}
OF_STATE = {"exp_avg": "m", "exp_avg_sq": "v", "curvature": "h", "state1": "m", "state2": "v"}


class Bag:
    """Parameters by name, all in one group."""

    def __init__(self, generator):
        self.tensors = {n: torch.nn.Parameter(torch.randn(s, generator=generator) / 3) for n, s in SHAPES.items()}

    def named_parameters(self):
        return self.tensors.items()

    def parameters(self):
        return self.tensors.values()

    def parameter_groups(self, weight_decay):
        return [{"params": list(self.parameters()), "weight_decay": weight_decay}]


def recipe(optimizer, **fields) -> TrainRecipe:
    shape = {"steps": 100, "seq_len_tokens": 8, "batch_tokens": 64, "peak_lr": LR}
    return TrainRecipe.model_validate({**shape, "optimizer": optimizer, **fields})


def reference_of(optimizer, name):
    muons = ("blocks.0.wide.weight", "blocks.0.tall.weight")
    return adamw if optimizer == "muon" and name not in muons else REFERENCES[optimizer]


def stored_moments(state):
    """What the optimizer remembers, in float64; 8-bit codes are looked up here."""
    found = {}
    for name, letter in OF_STATE.items():
        if name not in state:
            continue
        moment = state[name].double()
        if state[name].dtype == torch.uint8:
            table, largest = (state[f"{part}{name[-1]}"].double() for part in ("qmap", "absmax"))
            scale = largest.repeat_interleave(256)[: moment.numel()].view_as(moment)
            moment = table[state[name].long()] * scale
        found[letter] = moment
    return found


def rounding(state, letter, exact):
    """The largest error rounding to the state's own precision may make, for each element."""
    name = next(name for name, it in OF_STATE.items() if it == letter and name in state)
    if state[name].dtype == torch.bfloat16:
        return exact.abs() * 2**-8 * 1.001
    if state[name].dtype == torch.uint8:
        half_gap = state[f"qmap{name[-1]}"].diff().max() / 2
        largest = state[f"absmax{name[-1]}"].repeat_interleave(256)[: exact.numel()].view_as(exact)
        return largest * half_gap * 1.01  # the search misses the nearest entry at times, by little
    return exact.abs().max() * 1e-6


def sampled_gradient(bag, sampled):
    for name, p in bag.named_parameters():
        p.grad = sampled[name]
    return TARGETS


# Of the last, eps is as large as the smallest gradients, where an optimizer has one.
@pytest.mark.parametrize(("weight_decay", "eps"), [(0.0, None), (0.3, None), (0.1, 1e-3)])
@pytest.mark.parametrize("optimizer", list(OPTIMIZERS))
def test_steps_are_those_of_the_paper(optimizer, weight_decay, eps):
    generator = torch.Generator().manual_seed(0)
    eps = eps if "eps" in OPTIMIZERS[optimizer].defaults else None
    bag, settings = Bag(generator), recipe(optimizer, weight_decay=weight_decay, eps=eps)
    subject = build_optimizer(bag, settings, torch.device("cpu"))
    expected = {name: p.detach().double() for name, p in bag.named_parameters()}
    moments = {name: {} for name in SHAPES}
    for t in range(1, STEPS + 1):
        options = SimpleNamespace(**dict(settings), lr=LR * t / STEPS, decay=weight_decay)
        size = 10.0 ** -(t % 4)
        grads = {n: torch.randn(s, generator=generator) * size for n, s in SHAPES.items()}
        sampled = {n: torch.randn(s, generator=generator) * 0.1 for n, s in SHAPES.items()}
        for name, p in bag.named_parameters():
            p.grad = grads[name].clone()
        for group in subject.param_groups:
            group["lr"] = options.lr
        subject.step()
        if (after_update := OPTIMIZERS[optimizer].after_update) is not None:
            after_update(subject, partial(sampled_gradient, bag, sampled))
        for name, p in bag.named_parameters():
            options.sampled = sampled[name].double()
            step = reference_of(optimizer, name)
            expected[name] = step(expected[name], grads[name].double(), moments[name], t, options)
            stored = stored_moments(subject.state[p])
            if optimizer in COARSE:
                for letter, moment in stored.items():
                    exact = moments[name][letter]
                    assert ((moment - exact).abs() <= rounding(subject.state[p], letter, exact)).all(), (name, letter)
                moments[name].update(stored)
    for name, p in bag.named_parameters():
        atol = 2e-6
        if reference_of(optimizer, name) is muon:  # its entries, below 1/2, are in bf16: half a last place is 2^-10
            atol += STEPS * LR * 0.2 * math.sqrt(max(p.shape)) * 2**-10
        error = (p.detach().double() - expected[name]).abs().max().item()
        assert error < atol, name

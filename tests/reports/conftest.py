"""A made-up but plausible run, with the shapes and magnitudes a small real one has."""

from __future__ import annotations

import hashlib
import math
import random
from pathlib import Path

import pytest
from compared_runs import compared_run, evaluation

from athanor.data.data_recipe import MixtureRecipe
from athanor.data.mixture import Mixture
from athanor.data.phases import Phase
from athanor.models.maps import Map
from athanor.reports.card import write_report
from athanor.reports.comparison_page import comparison_page
from athanor.reports.inputs import ReportInputs, ShardRow, StageRow

STEPS, BATCH_ROWS, SEQ_LEN = 600, 16, 128
MIXTURE = MixtureRecipe(
    start={"code": 0.3, "docs": 0.4, "math": 0.3}, end={"code": 0.1, "docs": 0.2, "math": 0.7}, anneal_fraction=0.25
)
HOSTILE = (
    '<script>alert("x")</script> & </pre><img src=http://evil.example/a.png> `` ``` | \x00\x1b[31m \ud800 \u202e ok'
)


def key(*names: str) -> str:
    return hashlib.sha256("/".join(names).encode()).hexdigest()


def training_rows(
    steps: int, first: float, last: float, domains: dict[str, tuple[float, float]], mix: bool
) -> list[dict]:
    noise = random.Random(7)
    counts = Mixture(MIXTURE, seed=0, steps=steps, phases=(Phase(0, SEQ_LEN, BATCH_ROWS),))
    rows: list[dict] = [{"kind": "event", "step": 0, "message": "started"}]
    for step in range(1, steps + 1):
        done = step / steps
        fall = math.exp(-5 * done)
        rate = 3e-3 * min(step / 30, 1) * 0.5 * (1 + math.cos(math.pi * done))
        if step % 100 == 0 or step == 1:
            held = {d: {"loss": b * 2.4, "bits_per_byte": b, "tokens": 8192}
                    for d, (a, z) in domains.items() for b in [z + (a - z) * fall]}  # fmt: skip
            rows.append({"kind": "eval", "step": step, "held_out": held})
        if step == steps // 2:
            rows.append({"kind": "event", "step": step, "message": "resumed from checkpoint of step 300"})
        rows.append({
            "kind": "step", "step": step, "loss": last + (first - last) * fall + noise.gauss(0, 0.06),
            "lr": rate, "grad_norm": 0.4 + 2 * fall + abs(noise.gauss(0, 0.15)), "tokens": step * BATCH_ROWS * SEQ_LEN,
            "tokens_per_s": 7400 + noise.gauss(0, 220), "flops_per_s": 5e10, "utilisation": 0.0, "step_s": 0.28,
            "eta_s": (steps - step) * 0.28, "cost_usd": 0.0, "mix": counts.counts(step - 1) if mix else {},
            "schedule": {"tau": max(0.1, 1 - 0.9 * done)},
            "aux": {"entropy_static": 1.386 - 0.1 * done, "entropy_dynamic": 1.3 * fall, "alpha_rms": done},
        })  # fmt: skip
    return rows


def lineage(price: float) -> list[StageRow]:
    found: list[StageRow] = []

    def add(stage: str, label: str, parents: dict[str, str], wall_s: float, **facts: object) -> str:
        made = key(stage, label)
        found.append(StageRow(stage, label, made, parents, wall_s, wall_s * price / 3600, facts, 1, key("code", stage)))
        return made

    read = {"documents": 1240, "held_out_documents": 25, "text_bytes": 2_130_000, "held_out_bytes": 43_000}
    texts = {
        s: add("acquire", s, {}, 2.5, **read, rejected=10 * n, files_passed_over=3) for n, s in enumerate(MIXTURE.start)
    }
    chats = add("acquire", "chat", {}, 1.2, documents=4000, held_out_documents=200, rejected=0)
    tokenizer = add("tokenizer", "bpe", texts, 6.1, vocab_size=2048)
    tokens = {
        s: add("tokenize", s, {"documents": k, "tokenizer": tokenizer}, 1.9, tokens=812_000) for s, k in texts.items()
    }
    chat = add("chat", "sums", {"documents": chats, "tokenizer": tokenizer}, 2.2, tokens=210_000)
    base = add("pretrain", "polychromatic", {**tokens, "tokenizer": tokenizer}, 172.0, steps=STEPS, loss=2.31)
    fit = {"conversations": 4000, "truncated_conversations": 30, "dropped_conversations": 2}
    fit |= {"assistant_tokens": 90_000, "lost_assistant_tokens": 450}
    tuned = add("sft", "polychromatic", {"base": base, "chat": chat}, 61.0, steps=200, loss=0.91, **fit)
    for model, made in (("base", base), ("sft", tuned)):
        add("evaluate", f"sums-{model}", {"model": made}, 12.4, exact_match=0.02)
        add("interpret", model, {"model": made, **tokens}, 4.8, maps=5)
    return found


def maps(model: str) -> list[Map]:
    noise = random.Random(model)
    names = ["ReLU", "tanh", "SiLU", "GELU"]
    layers = [f"layer {i}" for i in range(6)]
    usage = []
    for _ in layers:
        raw = [math.exp(noise.gauss(0, 0.8)) for _ in names]
        usage.append([value / sum(raw) for value in raw])
    entropy = [[noise.uniform(0.2, 1.3) for _ in layers] for _ in range(3)]
    return [
        Map(name="routing_usage", title="Share of each activation by layer", kind="heatmap", values=usage,
            x_label="activation", x_ticks=names, y_ticks=layers, note="Mean gate over held-out tokens, noise off."),
        Map(name="attention_map", title="Mean attention by distance", kind="heatmap", x_label="tokens back",
            y_label="layer", values=[[math.exp(-d / (4 + 3 * i)) for d in range(64)] for i in range(6)]),
        Map(name="routing_entropy", title="Routing entropy by layer", kind="lines", values=entropy, x_label="layer",
            y_label="entropy", unit="nats", series=["static", "dynamic", "actual"]),
        Map(name="domain_usage", title="Activation use by domain", kind="bars", x_label="domain", y_label="share",
            values=[[noise.random() for _ in MIXTURE.start] for _ in names], x_ticks=sorted(MIXTURE.start),
            series=names),
        Map(name="gate_numbers", title="Gate parameters", kind="table", y_label="layer",
            values=[[noise.gauss(0, 1) for _ in range(2)] for _ in layers], y_ticks=layers,
            x_ticks=["alpha, standard deviation", "beta, mean"]),
    ]  # fmt: skip


def full_run(price: float = 0.0) -> ReportInputs:
    """Everything a run can have; samples hold text that tries to break out of the page."""
    samples = [
        {"model": "sft", "task": "sums", "prompt": "Q: Tom has 3 apples and buys 4 more. How many?\nA:",
         "expected": "7", "response": "3 + 4 = 7\n#### 7", "correct": True},
        {"model": "base", "task": "sums", "prompt": HOSTILE, "response": HOSTILE, "expected": HOSTILE,
         "correct": False},
    ]  # fmt: skip
    return ReportInputs(
        title="Quickstart: sums in four activations",
        preset="quickstart",
        preset_yaml="model:\n  family: polychromatic\n  d_model: 128\npretrain:\n  steps: 600\n  peak_lr: 3.0e-3\n",
        command="athanor run quickstart --set pretrain.steps=600",
        stages=lineage(price),
        model={"family": "polychromatic", "d_model": 128, "n_layers": 6, "n_heads": 4, "vocab_size": 2048},
        parameters={"embedding": 262_144, "total": 1_312_488, "active": 1_312_488},
        shards=[
            ShardRow(s, split, tokens, docs, int(tokens * 2.61))
            for s, scale in (("code", 1.0), ("docs", 1.4), ("math", 0.8))
            for split, tokens, docs in (("train", int(812_345 * scale), int(1215 * scale)), ("held_out", 16_384, 25))
        ],
        mixture=MIXTURE,
        pretrain_steps=STEPS,
        pretrain_metrics=training_rows(
            STEPS, 7.6, 2.3, {"code": (3.4, 1.31), "docs": (3.2, 1.72), "math": (2.9, 0.94)}, mix=True
        ),
        meanings={"tau": "Temperature of the choice.", "alpha_rms": "Size of the preferences."},
        pretrain_schedule={
            "step": [1, 200, 400, 600],
            "learning rate": [1e-4, 2.2e-3, 7.5e-4, 0.0],
            "tokens per row": [64, 64, 128, 128],
            "rows per step": [32, 32, 16, 16],
            "share of math": [0.3, 0.3, 0.4, 0.7],
            "constant": [1.0, 1.0, 1.0, 1.0],
            "tau": [1.0, 0.7, 0.4, 0.1],
        },
        sft_metrics=training_rows(200, 2.2, 0.9, {"chat": (1.1, 0.41)}, mix=False),
        evaluations=[
            evaluation("sums", "base", exact_match=(0.021, 0.009, 0.041, 400, True, 0.0),
                       nats=(2.1, 2.0, 2.2, 400, False, None)),
            evaluation("sums", "sft", exact_match=(0.412, 0.364, 0.461, 400, True, 0.0),
                       nats=(0.9, 0.85, 0.95, 400, False, None)),
            evaluation("choice", "base", acc=(0.262, 0.221, 0.307, 400, True, 0.25)),
            evaluation("choice", "sft", acc=(0.281, 0.238, 0.327, 400, True, 0.25)),
        ],
        samples=samples,
        maps={"base": maps("base"), "sft": maps("sft")},
        versions={"python": "3.11.9", "torch": "2.13.0", "athanor": "0.1.0"},
    )  # fmt: skip


@pytest.fixture(scope="session")
def run() -> ReportInputs:
    return full_run()


@pytest.fixture(scope="session")
def written(run, tmp_path_factory) -> Path:
    """The folder of the written report of `run`."""
    out = tmp_path_factory.mktemp("report")
    write_report(run, out)
    return out


@pytest.fixture(scope="session")
def priced_run() -> ReportInputs:
    return full_run(price=1.8)


@pytest.fixture(scope="session")
def hostile_text() -> str:
    return HOSTILE


@pytest.fixture(scope="session")
def compared_html() -> str:
    """The page of three runs: a control, one with another tokenizer, one with another rate."""
    fast = {"model": {"family": "polychromatic", "d_model": 64}, "pretrain": {"peak_lr": 3e-3, "eval_tokens": 4096}}
    runs = [
        compared_run("polychromatic-" + "a" * 12, recipe=fast, family="polychromatic"),
        compared_run("vanilla-" + "b" * 12),
        compared_run("vanilla-with-a-rather-long-name-" + "c" * 12, tokenizer_sha256="two"),
    ]
    return comparison_page(runs, 0.99)

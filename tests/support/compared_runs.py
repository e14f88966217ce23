"""Evaluations, and runs as they are compared, made up."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from athanor.reports.compared import ComparedRun
from athanor.reports.curves import Curve, HeldOut


def evaluation(task: str, model: str, **metrics: tuple) -> dict:
    names = ("value", "ci_low", "ci_high", "n", "higher_is_better", "chance")
    measured = {name: dict(zip(names, values, strict=True)) for name, values in metrics.items()}
    first = 0 if model == "base" else 150
    items = {n: {"sha256": task, "values": items_of(one["value"], one["n"], first)} for n, one in measured.items()}
    made = {"task": task, "label": task, "model": model, "metrics": measured, "samples_file": "samples.jsonl"}
    return made | {"items": items}


def items_of(value: float, n: int, first: int) -> list[float]:
    """What may have come of `n` items with this mean; below 1, of yes and no, those from `first` on are right."""
    if value < 1:
        return [float((i - first) % n < round(value * n)) for i in range(n)]
    return [value * (0.8 + 0.4 * (i % 2)) for i in range(n)]


def scored(task: str, items: str = "", first: int = 0, settings: Mapping[str, Any] | None = None, **metrics: tuple):
    """An evaluation as it is compared, of the items called `items`; those from `first` on are right."""
    made = evaluation(task, "base", **metrics)
    kept = {
        name: {"sha256": items or task, "values": items_of(one["value"], one["n"], first)}
        for name, one in made["metrics"].items()
    }
    return {**made, "items": kept, "settings": {"asked": {"name": task, **(settings or {})}}}


def compared_run(name: str, **fields: Any) -> ComparedRun:
    """A run of 60 steps, a quarter right on 40 items; fields as the test wants them."""
    curve = Curve.of(
        f"pretrain/{name}",
        [(step, 2.0 + 5.0 / step) for step in range(1, 61)],
        {source: HeldOut.of([(step, 1.0 + 2.0 / step, 4096) for step in (1, 30, 60)]) for source in ("math", "code")},
    )
    recipe = {"model": {"family": "vanilla", "d_model": 64}, "pretrain": {"peak_lr": 1e-3, "eval_tokens": 4096}}
    known: dict[str, Any] = {
        "curve": curve,
        "stage": "pretrain", "state": "complete", "family": "vanilla", "parameters": 140_000, "steps": 60,
        "steps_planned": 60, "tokens": 120_000, "tokens_per_s": 9_000.0, "device_s": 41.0, "usd": 0.02,
        "averages": {10: 4.1, 60: 3.2}, "tokenizer_sha256": "one", "made_by": {"code": "c", "torch": "2"},
        "held_out_text": {"math": "acquire/math-1", "code": "acquire/code-1"}, "recipe": recipe,
        "evaluations": [scored("sums", acc=(0.25, 0.2, 0.3, 40, True, 0.0))],
    }  # fmt: skip
    return ComparedRun(name=f"pretrain/{name}", **{**known, **fields})

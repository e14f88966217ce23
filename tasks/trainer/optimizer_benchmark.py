"""Every optimizer on the same small model and text: memory, time and what it learned.

    python -m athanor.tasks.trainer.optimizer_benchmark [--steps 200] [--optimizers adamw lion ...] [--peak-lr 0.001]
        [--out reports/benchmarks/optimizers-cpu.md]

The text is the language reference that comes with Python, a byte a token; its last part is held out. Each optimizer
starts from the same weights and reads the same rows, with its own defaults, a warm-up and a cosine to zero. Peak rates
are AdamW's times each one's `relative_lr`; none is tuned finely, so the losses show that all work, not which is best.
Times are medians over the steps.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cache
from itertools import takewhile
from pathlib import Path

import numpy as np
import torch

from athanor.data.loader import Batch
from athanor.data.sources.records import Raw
from athanor.data.sources.stdlib import read_stdlib_docs
from athanor.models.build import build_model
from athanor.models.model_recipe import ModelRecipe
from athanor.models.skeleton import LanguageModel
from athanor.tasks.trainer.course.course import Course
from athanor.tasks.trainer.engines.engine import Engine
from athanor.tasks.trainer.optimizers.build import build_optimizer
from athanor.tasks.trainer.optimizers.kind import OPTIMIZERS
from athanor.tasks.trainer.optimizers.memory import optimizer_bytes_per_parameter
from athanor.tasks.trainer.process.world import World
from athanor.tasks.trainer.step.step import Optimization
from athanor.tasks.trainer.train_recipe import TrainRecipe

MODEL = ModelRecipe(
    family="vanilla",
    vocab_size=256,
    d_model=96,
    n_layers=3,
    n_heads=3,
    n_kv_heads=1,
    head_dim=32,
    d_ff=256,
    max_seq_len=128,
)
ROWS, TOKENS, HELD_OUT_ROWS = 4, 128, 64
CPU = torch.device("cpu")
ADAMW_LR = 1e-2


@dataclass(frozen=True)
class Measurement:
    """What one optimizer did."""

    optimizer: str
    peak_lr: float
    bytes_per_parameter: float
    step_ms: float
    update_ms: float
    held_out_loss: float


def measure(optimizer: str, steps: int, peak_lr: float | None = None) -> Measurement:
    """Train the model with one optimizer; `peak_lr` in place of AdamW's times its `relative_lr`."""
    kind = OPTIMIZERS[optimizer]
    lr = peak_lr or ADAMW_LR * kind.relative_lr
    recipe = TrainRecipe(
        steps=steps,
        seq_len_tokens=TOKENS,
        batch_tokens=ROWS * TOKENS,
        peak_lr=lr,
        warmup_steps=steps // 10,
        optimizer=optimizer,
    )
    model = build_model(MODEL)
    model.init_weights(0)
    engine = Engine(model, build_optimizer(model, recipe, CPU), World())
    subject = Optimization(engine, recipe.grad_clip, CPU, nullcontext(), ROWS * TOKENS, kind.after_update, print)
    update_s: list[float] = []
    engine.optimizer.register_step_pre_hook(lambda *_: update_s.append(-time.perf_counter()))
    engine.optimizer.register_step_post_hook(lambda *_: update_s.append(update_s.pop() + time.perf_counter()))
    text, held_out = _text()
    course = Course(recipe)
    step_s = []
    for step in range(steps):
        started = time.perf_counter()
        subject.measure(_batch(text, step, ROWS), step)
        subject.update(course.learning_rate(step))
        step_s.append(time.perf_counter() - started)
    return Measurement(
        optimizer,
        lr,
        optimizer_bytes_per_parameter(recipe, model),
        1e3 * statistics.median(step_s),
        1e3 * statistics.median(update_s),
        _loss(model.eval(), _batch(held_out, 0, HELD_OUT_ROWS)),
    )


@cache
def _text() -> tuple[np.ndarray, np.ndarray]:
    """Bytes to train on and bytes held out, int64."""
    topics = takewhile(lambda raw: isinstance(raw, Raw) and raw.file.startswith("topics/"), read_stdlib_docs())
    content = "".join(raw.content for raw in topics if isinstance(raw, Raw) and isinstance(raw.content, str))
    data = np.frombuffer(content.encode(), dtype=np.uint8).astype(np.int64)
    cut = len(data) * 19 // 20
    return data[:cut], data[cut:]


def _batch(data: np.ndarray, step: int, rows: int) -> Batch:
    starts = np.random.default_rng(step).integers(len(data) - TOKENS, size=(rows, 1))
    window = data[starts + np.arange(TOKENS + 1)]
    whole_rows = np.zeros((rows, TOKENS), dtype=np.int64)
    keys, sources = step * rows + np.arange(rows), np.zeros(rows, dtype=np.int64)
    return Batch(window[:, :-1], window[:, 1:], whole_rows, keys, sources)


@torch.no_grad()
def _loss(model: LanguageModel, batch: Batch) -> float:
    loss = model.loss(torch.from_numpy(batch.ids_BT), torch.from_numpy(batch.targets_BT))
    return (loss.total / loss.tokens).item()


def report(rows: Sequence[Measurement], command: str, machine: str) -> str:
    """The figures as Markdown."""
    head = "| optimizer | peak rate | state, bytes per parameter | step, ms | of it update, ms | held-out loss, nats |"
    lines = [
        "# The optimizers on one small model",
        "",
        f"`{command}`",
        "",
        machine,
        "",
        head,
        "|---|---:|---:|---:|---:|---:|",
        *(
            f"| {r.optimizer} | {r.peak_lr:.1e} | {r.bytes_per_parameter:.2f} | {r.step_ms:.1f} | {r.update_ms:.1f} "
            f"| {r.held_out_loss:.3f} |"
            for r in rows
        ),
    ]
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print, and write the report if asked to."""
    described = (__doc__ or "").split("\n")[0]
    parser = argparse.ArgumentParser(prog="python -m athanor.tasks.trainer.optimizer_benchmark", description=described)
    names = list(OPTIMIZERS)
    parser.add_argument("--optimizers", nargs="+", choices=names, default=names)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--peak-lr", type=float, help="the same rate for all")
    parser.add_argument("--note", default="", help="what else to say about the machine")
    parser.add_argument("--out", type=Path, help="Markdown file to write")
    asked = parser.parse_args(arguments)
    rows = []
    for optimizer in asked.optimizers:
        rows.append(measure(optimizer, asked.steps, asked.peak_lr))
        print(f"{optimizer}: {rows[-1].held_out_loss:.3f} at {rows[-1].peak_lr:.1e}", flush=True)
    rate = "" if asked.peak_lr is None else f" --peak-lr {asked.peak_lr}"
    versions = f"Python {platform.python_version()}, torch {torch.__version__}"
    size = f"{sum(p.numel() for p in build_model(MODEL).parameters()):,} parameters, {ROWS * TOKENS:,} tokens a step"
    machine = f"{platform.machine()} CPU, threads: {torch.get_num_threads()}, {versions}; {size}. {asked.note}"
    command = f"python -m athanor.tasks.trainer.optimizer_benchmark --steps {asked.steps}{rate}"
    text = report(rows, command, machine.rstrip(". ") + ".")
    print(text, end="")
    if asked.out is not None:
        asked.out.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()

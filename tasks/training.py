"""What the `pretrain` and `sft` stages share: describe a run, start the training process, report its rows."""

from __future__ import annotations

import json
import shutil
import time
from typing import Any

from athanor.core.disk import write_json
from athanor.core.errors import UserError
from athanor.core.numbers import duration, money
from athanor.core.rows import Row, read_rows
from athanor.core.run_files import CHECKPOINTS, METRICS, OF_THE_PROCESS, SPEC, SUMMARY
from athanor.models.model_recipe import ModelRecipe
from athanor.tasks.runs.follow import Recorder
from athanor.tasks.stage import StageRun
from athanor.tasks.trainer.process.launch import run_trainer
from athanor.tasks.trainer.records.ledger import ledger_total
from athanor.tasks.trainer.train_recipe import RunSpec

LOG_EVERY_S = 10.0


def resolve_model(recipe: ModelRecipe, vocab_size: int) -> ModelRecipe:
    """The model recipe with the tokenizer's vocabulary filled in, or checked against it (UserError)."""
    if recipe.vocab_size is not None and recipe.vocab_size < vocab_size:
        raise UserError(
            f"model.vocab_size={recipe.vocab_size} is smaller than the tokenizer's {vocab_size} ids; "
            "leave it out to take the tokenizer's"
        )
    return recipe.model_copy(update={"vocab_size": recipe.vocab_size or vocab_size})


def train(spec: RunSpec, run: StageRun) -> dict[str, Any]:
    """Run or continue the training process in `run.out` and return its last figures.

    Wall time and cost come from the ledger, so that they count every attempt. What only a running process needs is
    deleted once the portable checkpoint stands.
    """
    write_json(run.out / SPEC, spec.model_dump(mode="json"))
    recorder = Recorder(run.out, run.log)
    try:
        run_trainer(run.out, _Relay(spec, run, recorder), spec.runtime)
    finally:
        recorder.record()
    for leftover in OF_THE_PROCESS:
        (run.out / leftover).unlink(missing_ok=True)
    shutil.rmtree(run.out / CHECKPOINTS, ignore_errors=True)
    newest: dict[str, dict[str, Any]] = {row["kind"]: row for row in read_rows(run.out / METRICS)}
    total = ledger_total(run.out)
    return {
        **json.loads((run.out / SUMMARY).read_text(encoding="utf-8")),
        "tokens": newest["step"]["tokens"],
        "loss": newest["step"]["loss"],
        "held_out": newest["eval"]["held_out"] if "eval" in newest else {},
        "wall_s": total.wall_s,
        "cost_usd": total.usd,
    }


class _Relay:
    """Passes the training process's rows on to the log, the progress bar and the metrics database."""

    def __init__(self, spec: RunSpec, run: StageRun, recorder: Recorder):
        self.spec, self.run, self.recorder = spec, run, recorder
        self.logged_s = -LOG_EVERY_S

    def __call__(self, row: Row) -> None:
        self.recorder.tick()
        if row["kind"] == "event":
            self.run.log(row["message"])
        elif row["kind"] == "eval":
            scores = ", ".join(f"{name} {score['bits_per_byte']:.3f}" for name, score in row["held_out"].items())
            self.run.log(f"step {row['step']}: held-out rows, bits per byte {scores}")
        else:
            self.run.progress(row["step"], self.spec.train.steps, f"steps, loss {row['loss']:.3f}")
            if time.monotonic() - self.logged_s >= LOG_EVERY_S:
                self.logged_s = time.monotonic()
                self.run.log(self._line(row))

    def _line(self, row: Row) -> str:
        spent = f", {money(row['cost_usd'])} spent" if row["cost_usd"] else ""
        return (
            f"step {row['step']}/{self.spec.train.steps}: loss {row['loss']:.3f}, "
            f"{row['tokens_per_s']:,.0f} tokens/s, {duration(row['eta_s'])} left{spent}"
        )

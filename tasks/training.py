"""What the `pretrain` and `sft` stages share: describe a run, start the training process, report its rows."""

from __future__ import annotations

import shutil
import time
from typing import Any

from data.errors import UserError
from data.store import Artifact, write_json
from models.config import ModelRecipe
from tasks.stage import StageRun
from tasks.trainer.config import RunSpec
from tasks.trainer.launch import run_trainer
from tasks.trainer.ledger import ledger_total

LOG_EVERY_S = 10.0


def resolve_model(recipe: ModelRecipe, tokenizer: Artifact) -> ModelRecipe:
    """The model recipe with the tokenizer's vocabulary filled in, or checked against it (UserError)."""
    vocab_size = tokenizer.facts["vocab_size"]
    if recipe.vocab_size is not None and recipe.vocab_size < vocab_size:
        raise UserError(
            f"model.vocab_size={recipe.vocab_size} is smaller than the tokenizer's {vocab_size} ids; "
            "leave it out to take the tokenizer's"
        )
    return recipe.model_copy(update={"vocab_size": recipe.vocab_size or vocab_size})


def train(spec: RunSpec, run: StageRun) -> dict[str, Any]:
    """Run or continue the training process in `run.out` and return its last figures.

    Wall time and cost come from the ledger, so that they count every attempt. Checkpoints for resuming are
    deleted once the portable checkpoint stands.
    """
    write_json(run.out / "run.json", spec.model_dump(mode="json"))
    final: dict[str, Any] = {}
    last_log_s = 0.0

    def on_row(row: dict[str, Any]) -> None:
        nonlocal last_log_s
        if row["kind"] == "event":
            run.log(row["message"])
        elif row["kind"] == "eval":
            final["held_out"] = row["held_out"]
            scores = ", ".join(f"{name} {score['bits_per_byte']:.3f}" for name, score in row["held_out"].items())
            run.log(f"step {row['step']}: held-out bits per byte {scores}")
        else:
            final.update(step=row["step"], tokens=row["tokens"], loss=row["loss"])
            run.progress(row["step"], spec.train.steps, "steps")
            if time.monotonic() - last_log_s >= LOG_EVERY_S:
                last_log_s = time.monotonic()
                run.log(
                    f"step {row['step']}/{spec.train.steps}: loss {row['loss']:.3f}, "
                    f"{row['tokens_per_s']:,.0f} tokens/s, {row['eta_s']:.0f} s left"
                    + (f", ${row['cost_usd']:.2f} spent" if row["cost_usd"] else "")
                )

    run_trainer(run.out, on_row)
    shutil.rmtree(run.out / "checkpoints", ignore_errors=True)
    total = ledger_total(run.out)
    return {**final, "wall_s": total.device_s, "cost_usd": total.usd}

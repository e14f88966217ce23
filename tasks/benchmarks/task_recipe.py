"""The recipe of one benchmark, an lm-eval task."""

from __future__ import annotations

from pydantic import Field

from athanor.core.recipe import Recipe


class EvalTaskRecipe(Recipe):
    """One lm-eval task, by its lm-eval name or as one of the local tasks beside this file."""

    name: str = Field(
        description="lm-eval task (gsm8k, minerva_math, ...), local task (word_problems, ...), or the path of an "
        "lm-eval task file of your own (.yaml); `athanor tasks` lists them"
    )
    path: str | None = Field(
        default=None, description="Local .jsonl or .parquet used as the test split instead of the hub"
    )
    limit: int | None = Field(default=None, ge=1, description="Score only the first so many documents")
    num_fewshot: int | None = Field(
        default=None, ge=0, description="Examples in the prompt; none takes the task's default"
    )
    max_new_tokens: int | None = Field(
        default=None, ge=1, description="Cap on generated tokens; none takes the task's default"
    )
    max_cut_fraction: float = Field(
        default=0.5,
        ge=0,
        le=1,
        description="Share of the prompts that may lose their beginning for want of context; above it, scoring fails",
    )

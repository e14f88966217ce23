"""Recipes of the evaluation, interpretation and report stages."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from athanor.core.recipe import Recipe
from athanor.data.data_recipe import ChatSourceRecipe
from athanor.tasks.trainer.train_recipe import TrainRecipe

ModelName = Literal["base", "sft"]


class SftRecipe(Recipe):
    """Supervised fine-tuning: the conversations and the optimization."""

    source: ChatSourceRecipe = Field(description="Conversations")
    train: TrainRecipe = Field(description="Optimization; rows are packed conversations")

    @model_validator(mode="after")
    def _one_length(self) -> SftRecipe:
        if self.train.length_phases is not None:
            raise ValueError("train.length_phases: packed conversations have rows of one length; leave it out")
        return self


class EvalTaskRecipe(Recipe):
    """One lm-eval task, by its lm-eval name or as one of the local tasks in tasks/benchmarks/."""

    name: str = Field(description="lm-eval task (gsm8k, minerva_math, ...) or local task (word_problems, ...)")
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


class EvalRecipe(Recipe):
    """Benchmarks, each scored on the base and the fine-tuned model."""

    tasks: dict[str, EvalTaskRecipe] = Field(description="Label in the report -> task")
    models: tuple[ModelName, ...] = Field(default=("base", "sft"), description="Which checkpoints are scored")
    seed: int = Field(default=0, ge=0, description="Seed of few-shot sampling and bootstrap")


class InterpretRecipe(Recipe):
    """Interpretability maps, measured on held-out text with noise off."""

    tokens: int = Field(default=16_384, ge=64, description="Held-out tokens per source the maps are measured on")
    seq_len_tokens: int = Field(default=256, ge=8, description="Tokens per row")


class ReportRecipe(Recipe):
    """The report card."""

    title: str = Field(default="", description="Heading; empty uses the preset's name")
    samples: int = Field(default=6, ge=0, description="Generated samples shown")

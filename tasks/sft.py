"""Stage `sft`: supervised fine-tuning of a base model on conversations, loss on the assistant's tokens."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from pydantic import Field, model_validator

from athanor.core.recipe import Recipe
from athanor.core.store import Artifact
from athanor.data.data_recipe import ChatSourceRecipe
from athanor.models.model_recipe import ModelRecipe
from athanor.tasks.cost import TrainingCost
from athanor.tasks.stage import TRAINER, Lifecycle, Stage, StageRun, Wanted
from athanor.tasks.trainer.train_recipe import RunSpec, TrainRecipe
from athanor.tasks.training import train

if TYPE_CHECKING:
    from athanor.tasks.preset_recipe import Preset


class SftRecipe(Recipe):
    """The preset's section `sft`: the conversations and the optimization."""

    source: ChatSourceRecipe = Field(description="Conversations")
    train: TrainRecipe = Field(description="Optimization; rows are packed conversations")

    @model_validator(mode="after")
    def _one_length(self) -> SftRecipe:
        if self.train.length_phases is not None:
            raise ValueError("train.length_phases: packed conversations have rows of one length; leave it out")
        return self


class SftStageRecipe(Recipe):
    """Optimization; the base model and the conversations are parents."""

    train: TrainRecipe


def wanted(life: Lifecycle) -> Iterator[Wanted]:
    """The fine-tuned model, with SFT."""
    if life.preset.sft is not None:
        inputs = {"base": life.one("pretrain"), "chat": life.one("chat"), "tokenizer": life.one("tokenizer")}
        yield Wanted("sft", life.preset.model.family, SftStageRecipe(train=life.preset.sft.train), inputs)


def cost(recipe: SftStageRecipe, preset: Preset, **inputs: Any) -> TrainingCost:
    """The conversations are one source."""
    return TrainingCost(recipe.train, held_out_sources=1)


def build(recipe: SftStageRecipe, run: StageRun, *, base: Artifact, chat: Artifact, tokenizer: Artifact) -> dict:
    """Fine-tune in a child process; a killed run continues from its newest whole checkpoint."""
    model = ModelRecipe.model_validate(json.loads(base.file("config.json").read_text()))
    spec = RunSpec(
        objective="sft",
        key=run.key,
        train=recipe.train,
        model=model,
        runtime=run.runtime,
        tokenizer_dir=str(tokenizer.path),
        shard_dirs={"chat": str(chat.path)},
        init_dir=str(base.path),
        run_name=f"sft-{model.family}-{run.key[:12]}",
    )
    return train(spec, run)


STAGE = Stage("sft", part="sft", wanted=wanted, cost=cost, build=build, resumable=True, trains=True, code=(TRAINER,))

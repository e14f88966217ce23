"""Stage `sft`: supervised fine-tuning of a base model on conversations, loss on the assistant's tokens."""

from __future__ import annotations

import json

from athanor.core.recipe import Recipe
from athanor.core.store import Artifact
from athanor.models.model_recipe import ModelRecipe
from athanor.tasks.stage import StageRun, stage
from athanor.tasks.trainer.train_recipe import RunSpec, TrainRecipe
from athanor.tasks.training import train


class SftStageRecipe(Recipe):
    """Optimization; the base model and the conversations are parents."""

    train: TrainRecipe


@stage("sft", resumable=True, code=("athanor.tasks.trainer.__main__",))
def sft(recipe: SftStageRecipe, run: StageRun, *, base: Artifact, chat: Artifact, tokenizer: Artifact) -> dict:
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

"""Stage `pretrain`: a model from random weights, trained on the mixture of the token shards."""

from __future__ import annotations

from athanor.core.recipe import Recipe
from athanor.core.store import Artifact
from athanor.data.data_recipe import MixtureRecipe
from athanor.models.model_recipe import ModelRecipe
from athanor.tasks.stage import StageRun, stage
from athanor.tasks.trainer.train_recipe import RunSpec, TrainRecipe
from athanor.tasks.training import resolve_model, train


class PretrainRecipe(Recipe):
    """Architecture, optimization and data proportions of a base model."""

    model: ModelRecipe
    train: TrainRecipe
    mixture: MixtureRecipe


@stage("pretrain", resumable=True, code=("athanor.tasks.trainer.__main__",))
def pretrain(recipe: PretrainRecipe, run: StageRun, *, tokenizer: Artifact, shards: dict[str, Artifact]) -> dict:
    """Train in a child process; a killed run continues from its newest whole checkpoint."""
    spec = RunSpec(
        objective="pretrain",
        key=run.key,
        train=recipe.train,
        model=resolve_model(recipe.model, tokenizer),
        runtime=run.runtime,
        tokenizer_dir=str(tokenizer.path),
        shard_dirs={source: str(artifact.path) for source, artifact in shards.items()},
        mixture=recipe.mixture,
        run_name=f"pretrain-{recipe.model.family}-{run.key[:12]}",
    )
    return train(spec, run)

"""Stage `pretrain`: a model from random weights, or from a checkpoint's, trained on the mixture of the token shards."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from athanor.core.recipe import Recipe
from athanor.core.store import Artifact
from athanor.data.data_recipe import MixtureRecipe
from athanor.data.epochs import drawn_tokens, epochs_text, repeats
from athanor.models.model_recipe import ModelRecipe
from athanor.tasks.cost import Cost, TrainingCost, bytes_per_token
from athanor.tasks.stage import TRAINER, Foreseen, Lifecycle, Stage, StageRun, Wanted
from athanor.tasks.trainer.train_recipe import RunSpec, TrainRecipe
from athanor.tasks.training import resolve_model, train

if TYPE_CHECKING:
    from athanor.tasks.preset_recipe import Preset


class PretrainRecipe(Recipe):
    """Architecture, optimization and data proportions of a base model."""

    model: ModelRecipe
    train: TrainRecipe
    mixture: MixtureRecipe


def wanted(life: Lifecycle) -> Iterator[Wanted]:
    """The base model, with pretraining."""
    preset = life.preset
    if preset.pretrain is None:
        return
    recipe = PretrainRecipe(model=preset.model.recipe, train=preset.pretrain, mixture=preset.mixture)
    inputs = {"tokenizer": life.one("tokenizer"), "shards": life.all("tokenize")}
    if preset.model.checkpoint is not None:
        inputs["init"] = life.one("checkpoint")
    yield Wanted("base", preset.model.family, recipe, inputs)


def cost(recipe: PretrainRecipe, preset: Preset, *, shards: Mapping[str, Cost], **inputs: Any) -> TrainingCost:
    """Every source has held-out text."""
    drawn = drawn_tokens(recipe.mixture, recipe.train.steps, recipe.train.batch_tokens)
    each = bytes_per_token(preset.tokenizer)
    epochs = {name: drawn[name] * each / text.text_bytes for name, text in shards.items() if text.text_bytes}
    return TrainingCost(recipe.train, held_out_sources=len(recipe.mixture.start), epochs=epochs)


def foresee(
    recipe: PretrainRecipe, preset: Preset, *, shards: dict[str, Artifact] | None = None, **inputs: Any
) -> Iterator[Foreseen]:
    """How often each source is read."""
    if shards is None:
        return
    drawn = drawn_tokens(recipe.mixture, recipe.train.steps, recipe.train.batch_tokens)
    epochs = {name: drawn[name] / max(1, artifact.facts["train_tokens"]) for name, artifact in shards.items()}
    yield Foreseen(epochs_text(epochs), repeats(epochs))


def build(
    recipe: PretrainRecipe,
    run: StageRun,
    *,
    tokenizer: Artifact,
    shards: dict[str, Artifact],
    init: Artifact | None = None,
) -> dict:
    """Train in a child process; a killed run continues from its newest whole checkpoint."""
    spec = RunSpec(
        objective="pretrain",
        key=run.key,
        train=recipe.train,
        model=resolve_model(recipe.model, tokenizer.facts["vocab_size"]),
        runtime=run.runtime,
        tokenizer_dir=str(tokenizer.path),
        shard_dirs={source: str(artifact.path) for source, artifact in shards.items()},
        mixture=recipe.mixture,
        init_dir=None if init is None else str(init.path),
        run_name=f"pretrain-{recipe.model.family}-{run.key[:12]}",
    )
    return train(spec, run)


STAGE = Stage(
    "pretrain",
    part="pretrain",
    wanted=wanted,
    cost=cost,
    build=build,
    foresee=foresee,
    resumable=True,
    trains=True,
    code=(TRAINER,),
)

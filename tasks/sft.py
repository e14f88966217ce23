"""Stage `sft`: supervised fine-tuning of a base model on conversations, loss on the assistant's tokens."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from pydantic import Field, model_validator

from athanor.core.errors import UserError
from athanor.core.recipe import Recipe
from athanor.core.store import Artifact
from athanor.data.data_recipe import ChatSourceRecipe
from athanor.data.epochs import epochs_text, repeats
from athanor.models.model_recipe import ModelRecipe
from athanor.tasks.cost import Cost, TrainingCost, bytes_per_token
from athanor.tasks.stage import TRAINER, Foreseen, Lifecycle, Stage, StageRun, Wanted, base_model
from athanor.tasks.trainer.train_recipe import RunSpec, TrainRecipe
from athanor.tasks.training import train

if TYPE_CHECKING:
    from athanor.data.packing import RowFit
    from athanor.tasks.preset_recipe import Preset

MAX_LOST_FRACTION = 0.05


class SftRecipe(Recipe):
    """The preset's section `sft`: the conversations and the optimization."""

    source: ChatSourceRecipe = Field(description="Conversations")
    train: TrainRecipe = Field(description="Optimization; rows are packed conversations")
    max_lost_fraction: float = Field(
        default=MAX_LOST_FRACTION,
        ge=0,
        le=1,
        exclude_if=lambda fraction: fraction == MAX_LOST_FRACTION,
        description="Share of the assistant tokens, lost where conversations are longer than a row, above which "
        "fine-tuning fails",
    )

    @model_validator(mode="after")
    def _one_length(self) -> SftRecipe:
        if self.train.length_phases is not None:
            raise ValueError("train.length_phases: packed conversations have rows of one length; leave it out")
        return self


class SftStageRecipe(Recipe):
    """Optimization; the base model and the conversations are parents. What may be lost changes nothing learned."""

    train: TrainRecipe
    max_lost_fraction: float = Field(exclude=True)


def wanted(life: Lifecycle) -> Iterator[Wanted]:
    """The fine-tuned model, with SFT."""
    if life.preset.sft is not None:
        inputs = {"base": base_model(life), "chat": life.one("chat"), "tokenizer": life.one("tokenizer")}
        asked = life.preset.sft
        recipe = SftStageRecipe(train=asked.train, max_lost_fraction=asked.max_lost_fraction)
        yield Wanted("sft", life.preset.model.family, recipe, inputs)


def cost(recipe: SftStageRecipe, preset: Preset, *, chat: Cost, **inputs: Any) -> TrainingCost:
    """The conversations are one source."""
    asked_bytes = recipe.train.steps * recipe.train.batch_tokens * bytes_per_token(preset.tokenizer)
    epochs = {"chat": asked_bytes / chat.text_bytes} if chat.text_bytes else {}
    return TrainingCost(recipe.train, held_out_sources=1, epochs=epochs)


def foresee(
    recipe: SftStageRecipe, preset: Preset, *, chat: Artifact | None = None, **inputs: Any
) -> Iterator[Foreseen]:
    """What rows of this length hold of the conversations, and how often they are read. Raises UserError where they lose
    more than may be lost."""
    if chat is None:
        return
    from athanor.data.loader import ChatLoader

    yield Foreseen(str(_fit(recipe, chat)))
    train = recipe.train
    loader = ChatLoader(
        chat.path, seed=train.seed, steps=train.steps, seq_len_tokens=train.seq_len_tokens, batch_rows=train.batch_rows
    )
    epochs = loader.epochs()
    yield Foreseen(epochs_text(epochs), repeats(epochs))


def build(recipe: SftStageRecipe, run: StageRun, *, base: Artifact, chat: Artifact, tokenizer: Artifact) -> dict:
    """Fine-tune in a child process; a killed run continues from its newest whole checkpoint."""
    fit = _fit(recipe, chat)
    run.log(f"sft: {fit}")
    model = ModelRecipe.model_validate(json.loads(base.file("config.json").read_text(encoding="utf-8")))
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
    return {**train(spec, run), **fit.facts()}


def _fit(recipe: SftStageRecipe, chat: Artifact) -> RowFit:
    """How the conversations fit; UserError above the limit."""
    from athanor.data.packing import fit_rows
    from athanor.data.shards import TokenShards

    _, _, fit = fit_rows(TokenShards(chat.path / "train"), recipe.train.seq_len_tokens)
    if fit.lost_fraction > recipe.max_lost_fraction:
        raise UserError(
            f"sft: {fit}, more than sft.max_lost_fraction={recipe.max_lost_fraction:g}; "
            "give longer rows (sft.train.seq_len_tokens) or allow the loss"
        )
    return fit


STAGE = Stage(
    "sft",
    part="sft",
    wanted=wanted,
    cost=cost,
    build=build,
    foresee=foresee,
    resumable=True,
    trains=True,
    code=(TRAINER,),
)

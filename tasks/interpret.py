"""Stage `interpret`: what the model's family can show of itself, measured on held-out text with noise off."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from typing import TYPE_CHECKING, Any

from pydantic import Field

from athanor.core.disk import write_json
from athanor.core.recipe import Recipe
from athanor.core.store import Artifact
from athanor.tasks.cost import STARTUP_S, Cost
from athanor.tasks.stage import Lifecycle, ModelName, Stage, StageRun, Wanted

if TYPE_CHECKING:
    from athanor.tasks.preset_recipe import Preset

PROBING_SLOWDOWN = 3.0  # measuring maps, against a forward pass


class InterpretRecipe(Recipe):
    """The preset's section `interpret`: maps, measured on held-out text with noise off."""

    tokens: int = Field(default=16_384, ge=64, description="Held-out tokens per source the maps are measured on")
    seq_len_tokens: int = Field(default=256, ge=8, description="Tokens per row")


class InterpretStageRecipe(Recipe):
    """How much text the maps are measured on; the model and the shards are parents."""

    interpret: InterpretRecipe
    model: ModelName


def wanted(life: Lifecycle) -> Iterator[Wanted]:
    """The maps of each model, where there is text to measure them on."""
    if life.preset.interpret is not None and life.preset.data is not None:
        for name, model in life.models().items():
            recipe = InterpretStageRecipe(interpret=life.preset.interpret, model=name)
            inputs = {"model": model, "shards": life.all("tokenize")}
            yield Wanted(name, f"{life.preset.model.family}-{name}", recipe, inputs)


def cost(recipe: InterpretStageRecipe, preset: Preset, *, shards: dict[str, Cost], **inputs: Any) -> Cost:
    """Forward passes under hooks, over as many tokens of each source."""
    return Cost(STARTUP_S, forward_tokens=recipe.interpret.tokens * len(shards) * PROBING_SLOWDOWN)


def build(recipe: InterpretStageRecipe, run: StageRun, *, model: Artifact, shards: dict[str, Artifact]) -> dict:
    """Write `maps.json`: every map the model's family declares."""
    from athanor.data.loader import held_out_batches
    from athanor.data.shards import TokenShards
    from athanor.models.checkpoints.portable import load_portable
    from athanor.models.device import choose_device, set_up

    set_up(run.runtime)
    network = load_portable(model.path, choose_device(run.runtime.device)).eval()
    asked = recipe.interpret
    batches = chain.from_iterable(
        held_out_batches(TokenShards(artifact.path / "held_out"), asked.seq_len_tokens, asked.tokens, rows=8)
        for _, artifact in sorted(shards.items())
    )
    maps = network.maps(batches)
    write_json(run.out / "maps.json", {"model": recipe.model, "maps": [m.model_dump(mode="json") for m in maps]})
    return {"maps": [m.name for m in maps]}


STAGE = Stage("interpret", part="interpret", wanted=wanted, cost=cost, build=build, shares=True)

"""Stage `interpret`: what the model's family can show of itself, measured on held-out text with noise off."""

from __future__ import annotations

from itertools import chain

from athanor.core.recipe import Recipe
from athanor.core.store import Artifact, write_json
from athanor.tasks.stage import StageRun, stage
from athanor.tasks.stage_recipes import InterpretRecipe, ModelName


class InterpretStageRecipe(Recipe):
    """How much text the maps are measured on; the model and the shards are parents."""

    interpret: InterpretRecipe
    model: ModelName


@stage("interpret")
def interpret(recipe: InterpretStageRecipe, run: StageRun, *, model: Artifact, shards: dict[str, Artifact]) -> dict:
    """Write `maps.json`: every map the model's family declares."""
    from athanor.data.loader import held_out_batches
    from athanor.data.shards import TokenShards
    from athanor.models.checkpoints.portable import load_portable
    from athanor.models.device import choose_device

    network = load_portable(model.path, choose_device(run.runtime.device)).eval()
    asked = recipe.interpret
    batches = chain.from_iterable(
        held_out_batches(TokenShards(artifact.path / "held_out"), asked.seq_len_tokens, asked.tokens, rows=8)
        for _, artifact in sorted(shards.items())
    )
    maps = network.maps(batches)
    write_json(run.out / "maps.json", {"model": recipe.model, "maps": [m.model_dump(mode="json") for m in maps]})
    return {"maps": [m.name for m in maps]}

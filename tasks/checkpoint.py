"""Stage `checkpoint`: a model that was trained elsewhere or before, from which a preset starts.

`model.checkpoint` names it; the preset's other fields of the model and the tokenizer are those it brings
(`with_checkpoint`), and one that says otherwise is refused. With a section `pretrain` the artifact is what pretraining
goes on from, else the base model. Its key covers the content of the weights and their recipe, not where they lie.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field, ValidationError

from athanor.core.disk import write_json
from athanor.core.errors import UserError
from athanor.core.keys import sha256_file
from athanor.core.recipe import Recipe
from athanor.core.store import Artifact
from athanor.models.checkpoints.files import ORIGIN, weight_files
from athanor.models.checkpoints.found import FoundCheckpoint, find_checkpoint
from athanor.models.family import Section
from athanor.models.model_recipe import ModelRecipe
from athanor.tasks.cost import STARTUP_S, Cost
from athanor.tasks.make_tokenizer import vocabulary_size
from athanor.tasks.model_place import find_model, trained_for
from athanor.tasks.stage import Foreseen, Lifecycle, Stage, StageRun, Wanted

if TYPE_CHECKING:
    from athanor.tasks.preset_recipe import Preset

COPY_BYTES_PER_S = 2e8
TAKE_OUT = "leave it out to take the checkpoint's"


class PresetModel(ModelRecipe):
    """The preset's section `model`: an architecture, or the checkpoint that brings one."""

    checkpoint: str | None = Field(
        default=None,
        exclude_if=lambda given: given is None,
        description="Weights to start from, with their architecture and tokenizer: a folder or file, an artifact, or a "
        "preset that has run; none starts from random ones",
    )

    @property
    def recipe(self) -> ModelRecipe:
        """The architecture alone."""
        return ModelRecipe.model_validate(self.model_dump(exclude={"checkpoint"}))


class CheckpointRecipe(Recipe):
    """What fixes a checkpoint: its recipe and the content of the files of its weights."""

    given: str = Field(exclude=True)
    model: ModelRecipe
    weights_sha256: tuple[str, ...]


def checkpoint_named(given: str) -> FoundCheckpoint:
    """The checkpoint that `model.checkpoint` means. UserError, one line, if it is none."""
    return _named(given)[1]


def _named(given: str) -> tuple[str, FoundCheckpoint]:
    """The same, and its whole name: what a prefix means may change."""
    try:
        place = find_model(given)
        return place.name, find_checkpoint(place.path)
    except UserError as error:
        raise UserError(f"model.checkpoint={given}: {error}") from None


def with_checkpoint(fields: dict[str, Any]) -> dict[str, Any]:
    """A preset's fields with what its checkpoint brings, if it names one. UserError for what contradicts it."""
    asked = fields.get("model")
    if not isinstance(asked, dict) or asked.get("checkpoint") is None:
        return fields
    if (given := str(asked["checkpoint"])) == fields.get("name"):
        raise UserError(f"model.checkpoint={given} is what this preset makes itself: give the preset another name")
    given, found = _named(given)
    model = _model({name: value for name, value in asked.items() if name != "checkpoint"}, given, found.recipe)
    return {
        **fields,
        "model": {**model, "checkpoint": given},
        "tokenizer": _tokenizer(fields.get("tokenizer"), given, found),
    }


def _model(asked: Mapping[str, Any], given: str, recipe: ModelRecipe) -> dict[str, Any]:
    """The section `model`. UserError for the first field that says otherwise than the checkpoint; what makes no recipe
    at all is left to be refused with the rest of the preset."""
    own = recipe.model_dump(mode="json") | {recipe.family: recipe.section(Section).model_dump(mode="json")}
    if "family" in asked and asked["family"] != recipe.family:
        raise _contradiction("family", asked["family"], given, recipe.family)
    merged = _over(own, asked)
    try:
        read = ModelRecipe.model_validate(merged).model_dump(mode="json")
    except ValidationError:
        return merged
    for name in asked:
        inner = asked[name] if isinstance(asked[name], dict) else {}
        for field in inner:
            if read[name].get(field) != own[name].get(field):  # a default may be left out
                raise _contradiction(f"{name}.{field}", inner[field], given, own[name].get(field, "the default"))
        if not inner and asked[name] is not None and read[name] != own[name]:
            raise _contradiction(name, asked[name], given, own[name])
    return recipe.model_dump(mode="json", exclude_none=True)


def _over(own: Mapping[str, Any], asked: Mapping[str, Any]) -> dict[str, Any]:
    """The checkpoint's fields with those of the preset over them."""
    return {
        **own,
        **{
            name: {**(own.get(name) or {}), **value} if isinstance(value, dict) else value
            for name, value in asked.items()
            if value is not None
        },
    }


def _contradiction(field: str, asked: object, given: str, brought: object) -> UserError:
    return UserError(f"model.{field}={asked}, but model.checkpoint={given} has {brought}: {TAKE_OUT}")


def _tokenizer(asked: Any, given: str, found: FoundCheckpoint) -> Any:
    """The section `tokenizer`: the checkpoint's own, or one that is named where it came without."""
    asked = {} if asked is None else asked
    if not isinstance(asked, dict):
        return asked
    if found.tokenizer is None:
        if asked.get("path") is None and asked.get("hub") is None:
            raise UserError(
                f"model.checkpoint={given} has no tokenizer.json beside it: give the one it was trained with as "
                "tokenizer.path or tokenizer.hub"
            )
        return asked
    own, path = str(found.tokenizer), asked.get("path")
    if asked.get("hub") is not None:
        raise UserError(f"tokenizer.hub={asked['hub']}, but model.checkpoint={given} has {own}: {TAKE_OUT}")
    if path is not None and not _same_file(Path(path), found.tokenizer):
        raise UserError(f"tokenizer.path={path}, but model.checkpoint={given} has another one, {own}: {TAKE_OUT}")
    if path is None and (ids := asked.get("vocab_size")) is not None and ids != (has := vocabulary_size(own)):
        raise UserError(
            f"tokenizer.vocab_size={ids}, but the tokenizer of model.checkpoint={given} has {has}: {TAKE_OUT}"
        )
    if found.portable and (eos := asked.get("eos", found.eos)) != found.eos:
        raise UserError(f"tokenizer.eos={eos}, but model.checkpoint={given} has {found.eos}: {TAKE_OUT}")
    return {"eos": found.eos, **asked, "path": own}


def _same_file(given: Path, own: Path) -> bool:
    path = given.expanduser()
    file = path / own.name if path.is_dir() else path
    return file.is_file() and sha256_file(file) == sha256_file(own)


def wanted(life: Lifecycle) -> Iterator[Wanted]:
    """What the preset starts from: `init` of pretraining or, without it, the model `base`."""
    preset = life.preset
    if (given := preset.model.checkpoint) is not None:
        found = checkpoint_named(given)
        recipe = CheckpointRecipe(given=given, model=found.recipe, weights_sha256=found.digests())
        member = "base" if preset.pretrain is None else "init"
        yield Wanted(member, found.recipe.family, recipe, {"tokenizer": life.one("tokenizer")})


def cost(recipe: CheckpointRecipe, preset: Preset, **inputs: Any) -> Cost:
    """Reading the weights and writing them."""
    weights_bytes = sum(file.stat().st_size for file in weight_files(checkpoint_named(recipe.given).path))
    return Cost(STARTUP_S + weights_bytes / COPY_BYTES_PER_S, disk_bytes=weights_bytes)


def foresee(recipe: CheckpointRecipe, preset: Preset, **inputs: Any) -> Iterator[Foreseen]:
    """What it is. Reads it, so that one that is not whole is refused before anything is built."""
    read = checkpoint_named(recipe.given).read()
    total = sum(parameter.numel() for parameter in read.model.parameters())
    steps = "" if read.steps is None else f", trained for {read.steps:,} steps"
    yield Foreseen(f"{recipe.given} is whole: {recipe.model.family}, {total:,} parameters{steps}")


def build(recipe: CheckpointRecipe, run: StageRun, *, tokenizer: Artifact) -> dict:
    """Write the checkpoint as a portable one, which is what every other stage reads."""
    from athanor.models.checkpoints.portable import save_portable

    found = checkpoint_named(recipe.given)
    read = found.read()
    if found.digests() != recipe.weights_sha256:
        raise UserError(f"model.checkpoint={recipe.given} has changed since this run began: run it again")
    save_portable(run.out, read.model, tokenizer.path)
    write_json(run.out / ORIGIN, {"file": found.path.name, "step": read.steps, "objective": trained_for(found.path)})
    return {"origin": recipe.given, "parameters": sum(parameter.numel() for parameter in read.model.parameters())}


STAGE = Stage("checkpoint", part="data", wanted=wanted, cost=cost, build=build, foresee=foresee)

"""Checkpoints of the published systems: theirs read as ours, ours written as theirs, tensor for tensor.

The `layout` of a family says how each system stores its models. Reading checks every name and shape, and that what
their file implies (a tied head, rotation tables) holds; nothing is unpickled but tensors and plain values. Weights keep
their dtype.
"""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from pydantic import ValidationError
from torch import Tensor

from athanor.core.disk import write_json
from athanor.core.errors import UserError
from athanor.core.near import did_you_mean
from athanor.core.run_files import METRICS
from athanor.core.validation import mistakes
from athanor.data.tokenizer import load_tokenizer
from athanor.models.build import build_on_meta
from athanor.models.checkpoints.files import CONFIG, ORIGIN
from athanor.models.checkpoints.layout import Layout
from athanor.models.checkpoints.portable import save_portable
from athanor.models.checkpoints.stored import Stored, read_stored
from athanor.models.family import FAMILIES
from athanor.models.model_recipe import ModelRecipe
from athanor.models.skeleton import LanguageModel

LAYOUTS: dict[str, Layout] = {name: one for family in FAMILIES.records() for name, one in family.layouts().items()}
TABLE_TOLERANCE = 0.01  # bf16 keeps fewer than three digits of a cosine


@dataclass(frozen=True)
class Imported:
    """A checkpoint as a model of ours, in eval mode, and the steps it says it was trained for."""

    model: LanguageModel
    steps: int | None


def import_checkpoint(path: Path, layout_name: str | None = None) -> Imported:
    """Read a published checkpoint: a .pt or .safetensors file, or a folder with model.safetensors or its index.

    A config.json beside the weights is heeded. Without a layout's name the checkpoint tells its own. UserError, one
    line, for anything that is not such a checkpoint, whole.
    """
    layout, stored, recipe = _read(path, layout_name)
    model = build_on_meta(recipe)
    expected = model.state_dict()
    state = _ours(path, layout, model, stored.tensors, expected)
    for name in expected.keys() & set(layout.beside):
        if not isinstance(value := stored.beside.get(name), int | float | Tensor):
            raise UserError(f"{path} has no {name} beside its tensors: it is not a whole {layout_name} checkpoint")
        state[name] = torch.as_tensor(value, dtype=expected[name].dtype).reshape(expected[name].shape)
    model.load_state_dict(state, assign=True)
    _check_implied(path, layout, model, stored.tensors)
    steps = stored.beside.get("step")
    return Imported(model.eval(), steps if isinstance(steps, int) else None)


def foreign_recipe(path: Path) -> ModelRecipe:
    """The recipe of the model that a published checkpoint holds, whose weights stay unread. UserError as
    `import_checkpoint`."""
    return _read(path, None)[2]


def export_checkpoint(model: LanguageModel, path: Path, layout_name: str, steps: int) -> str:
    """Write the model as the published code reads it; returns why its numbers will differ there.

    polychromatic: one .pt file, weights only (its optimizer and scheduler are empty). huginn: a folder with
    model.safetensors and config.json. UserError if `path` exists, or the layout cannot hold the model.
    """
    layout = layout_named(layout_name)
    if layout.write is None:
        raise UserError(f"the {layout_name} layout is read, not written; {', '.join(written_layouts())} are written")
    if model.recipe.family != layout.family:
        raise UserError(f"this is a {model.recipe.family} model: the {layout_name} layout holds {layout.family} alone")
    if path.exists():
        raise UserError(f"{path} exists already: choose another place, or remove it first")
    ours = model.state_dict()
    theirs = {}
    for name, parts in layout.sources(ours).items():
        tensors = [ours[part].cpu() for part in parts]
        joined, shape = torch.cat(tensors), layout.shape(name, tensors, model.recipe)
        if joined.numel() != math.prod(shape):
            raise UserError(f"published {layout.family} checkpoints have {name} as {list(shape)}, this model has not")
        theirs[name] = joined.reshape(shape)
    for name, tensor in layout.implied(model).items():
        theirs[name] = tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
    path.parent.mkdir(parents=True, exist_ok=True)
    layout.write(path, theirs, model, steps)
    return layout.caveat(model.recipe)


def import_portable(path: Path, layout_name: str | None, tokenizer_dir: Path, out: Path) -> Imported:
    """Read a published checkpoint and write it, with a tokenizer artifact, as the portable checkpoint `out`.

    `out` appears whole or not at all. UserError as `import_checkpoint`, if `out` exists, or if the tokenizer has ids
    the model lacks.
    """
    if out.exists():
        raise UserError(f"{out} exists already: choose another place, or remove it first")
    imported = import_checkpoint(path, layout_name)
    tokens, ids = load_tokenizer(tokenizer_dir).vocab_size, imported.model.embedding.num_embeddings
    if tokens > ids:
        raise UserError(f"the tokenizer has {tokens} ids, the model of {path} {ids}: give the one it was trained with")
    out.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent) as scratch:
        partial = Path(scratch) / out.name
        save_portable(partial, imported.model, tokenizer_dir)
        write_json(partial / ORIGIN, {"file": path.name, "step": imported.steps})
        partial.rename(out)
    return imported


def steps_trained(folder: Path) -> int | None:
    """Optimizer steps behind a portable checkpoint, as its import or its training log recorded; None if neither did."""
    if (folder / ORIGIN).is_file():
        return json.loads((folder / ORIGIN).read_text(encoding="utf-8"))["step"]
    log = folder / METRICS
    rows = map(json.loads, log.read_text(encoding="utf-8").splitlines()) if log.is_file() else ()
    return max((row["step"] for row in rows if row["kind"] == "step"), default=None)


def written_layouts() -> list[str]:
    """Names of the layouts that `export_checkpoint` writes."""
    return [name for name, layout in LAYOUTS.items() if layout.write is not None]


def layout_named(name: str, wanted: Collection[str] = tuple(LAYOUTS)) -> Layout:
    """The layout of a published system. UserError naming those that are `wanted`."""
    if name not in LAYOUTS:
        raise UserError(f"no layout {name!r}: {did_you_mean(name, wanted)}there are {', '.join(wanted)}")
    return LAYOUTS[name]


def _read(path: Path, layout_name: str | None) -> tuple[Layout, Stored, ModelRecipe]:
    """The checkpoint with its tensors by the names that its layout knows them by."""
    if layout_name is not None:
        layout_named(layout_name)
    stored = read_stored(path)
    name = layout_name or _layout_of(path, stored)
    layout = LAYOUTS[name]
    stored = replace(stored, tensors=layout.bare(stored.tensors))
    return layout, stored, _recipe(path, name, stored)


def _layout_of(path: Path, stored: Stored) -> str:
    """The one layout that knows the checkpoint. UserError if none does."""
    found = [name for name, layout in LAYOUTS.items() if layout.known(stored.tensors, stored.config)]
    if len(found) == 1:
        return found[0]
    said = stored.config.get("model_type")
    what = f"{CONFIG} says model_type={said!r}" if said else f"it has {_some(stored)}"
    raise UserError(f"{path} is in no layout known here: {what}; layouts are {', '.join(LAYOUTS)}")


def _some(stored: Stored) -> str:
    return ", ".join(sorted(stored.tensors)[:2]) or "nothing"


def _recipe(path: Path, layout_name: str, stored: Stored) -> ModelRecipe:
    try:
        return ModelRecipe.model_validate(LAYOUTS[layout_name].fields(stored.tensors, stored.config))
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    except KeyError as error:
        raise UserError(
            f"{path} is not in the {layout_name} layout: it lacks {error.args[0]} and has {_some(stored)}; "
            f"layouts are {', '.join(LAYOUTS)}"
        ) from None
    except ValidationError as error:
        raise UserError(f"{path} is not supported: {mistakes(error, 'model')}") from None
    except (ValueError, TypeError, IndexError):
        raise UserError(f"{path} is not in the {layout_name} layout: its tensors have other shapes") from None


def _ours(
    path: Path, layout: Layout, model: LanguageModel, theirs: Mapping[str, Tensor], expected: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Our state dict out of theirs, all names and shapes checked."""
    sources = layout.sources(expected)
    odd = sorted((theirs.keys() - layout.implied(model).keys()) ^ sources.keys())
    if odd:
        verb = "lacks" if odd[0] in sources else "has an unexpected"
        raise UserError(f"{path} {verb} tensor {odd[0]} ({len(odd)} differ): not a whole {layout.family} checkpoint")
    state: dict[str, Tensor] = {}
    for name, parts in sources.items():
        wanted = [expected[part] for part in parts]
        tensor = layout.turn(name, theirs[name])
        shape, given = layout.shape(name, wanted, model.recipe), tensor.shape
        if given != shape:
            raise UserError(f"{path}: {name} has shape {list(given)}, the other tensors ask for {list(shape)}")
        pieces = tensor.reshape(-1, *wanted[0].shape[1:]).split([len(part) for part in wanted])
        # Pieces of one tensor share its memory, which safetensors refuses to write.
        state |= {part: piece.clone() if len(parts) > 1 else piece for part, piece in zip(parts, pieces, strict=True)}
    return state


def _check_implied(path: Path, layout: Layout, model: LanguageModel, theirs: Mapping[str, Tensor]) -> None:
    for name, ours in layout.implied(model).items():
        if (given := theirs.get(name)) is None:
            continue
        tolerance = 0.0 if name == layout.tied_head else TABLE_TOLERANCE
        if given.shape != ours.shape or not torch.allclose(given.float(), ours.float(), atol=tolerance, rtol=0):
            what = "not the embedding: an untied head" if name == layout.tied_head else "that of another rotation"
            raise UserError(f"{path}: {name} is {what}, which this import does not support")

"""What lies in the folder of a checkpoint, ours or a published one that uses safetensors; read without torch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from athanor.core.errors import UserError
from athanor.core.text import one_line
from athanor.core.validation import mistakes
from athanor.models.model_recipe import ModelRecipe

WEIGHTS = "model.safetensors"
INDEX = f"{WEIGHTS}.index.json"  # of weights in several files
CONFIG = "config.json"
ORIGIN = "imported.json"  # in an imported portable checkpoint: file, step, objective
TOKENIZER_META = "tokenizer_meta.json"  # of ours alone


def reason(error: object) -> str:
    """What a library says about a bad file, on one line and not too long."""
    return one_line(str(error), 160)


def read_object(path: Path) -> dict[str, Any]:
    """A JSON object. UserError if it is none, or cannot be read."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read ({reason(error)}): copy it again") from None
    if not isinstance(found, dict):
        raise UserError(f"{path} must hold an object; it holds {type(found).__name__}")
    return found


def read_recipe(path: Path) -> ModelRecipe:
    """The recipe in our config.json. UserError if it is missing or none."""
    try:
        return ModelRecipe.model_validate(read_json(path))
    except ValidationError as error:
        raise UserError(f"{path}: {mistakes(error, 'model')}; write the checkpoint again") from None


def read_json(path: Path) -> object:
    """What a JSON file of ours holds. UserError if it is missing or cannot be read."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path} is missing: this is not a portable checkpoint, or not all of one") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read ({reason(error)}): write the checkpoint again") from None


def weight_files(path: Path) -> list[Path]:
    """The files that hold the weights of a checkpoint: the file itself, or those of a folder. UserError without any."""
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise UserError(f"{path} does not exist: give a .pt or .safetensors file, or a folder that holds {WEIGHTS}")
    if (path / WEIGHTS).is_file():
        return [path / WEIGHTS]
    if not (path / INDEX).is_file():
        raise UserError(f"{path} holds neither {WEIGHTS} nor {INDEX}: give the folder or the file of the weights")
    shards = read_object(path / INDEX).get("weight_map")
    if not isinstance(shards, dict) or not all(isinstance(n, str) and Path(n).name == n for n in shards.values()):
        raise UserError(f"{path / INDEX} must name, under weight_map, files of its own folder")
    return [path / shard for shard in sorted(set(shards.values()))]

"""A checkpoint wherever it lies, ours or a published one: what it is, before its weights are read.

A folder whose config.json names a family is one of ours, portable; everything else must be in a layout of a published
system (models/checkpoints/foreign.py). What is asked of ours is read without torch.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from athanor.core.digests import file_digests
from athanor.core.errors import UserError
from athanor.data.data_recipe import TokenizerRecipe
from athanor.models.checkpoints.files import CONFIG, TOKENIZER_META, read_json, read_object, read_recipe, weight_files
from athanor.models.model_recipe import ModelRecipe

if TYPE_CHECKING:
    from athanor.models.checkpoints.foreign import Imported

TOKENIZER = "tokenizer.json"
_EOS = TokenizerRecipe.model_fields["eos"].default


@dataclass(frozen=True)
class FoundCheckpoint:
    """`tokenizer` is the tokenizer.json that came with it, None where it came without; `eos` ends its documents."""

    path: Path
    portable: bool
    recipe: ModelRecipe
    tokenizer: Path | None
    eos: str

    def digests(self) -> tuple[str, ...]:
        """Hex sha256 of the files of its weights, remembered while they stay the same. UserError if one is missing."""
        try:
            return tuple(sha256 for _, sha256 in file_digests(weight_files(self.path)))
        except OSError as error:
            raise UserError(f"{error.filename}: {error.strerror}; copy the checkpoint again") from None

    def read(self) -> Imported:
        """The model in eval mode, its weights in the dtype they are stored in. UserError for what is not whole."""
        from athanor.models.checkpoints.foreign import Imported, import_checkpoint, steps_trained
        from athanor.models.checkpoints.portable import load_portable

        if not self.portable:
            return import_checkpoint(self.path)
        return Imported(load_portable(self.path), steps_trained(self.path))


def find_checkpoint(path: Path) -> FoundCheckpoint:
    """What lies at `path`: a file or folder of weights. UserError, one line, if it is no checkpoint known here."""
    weight_files(path)
    portable = path.is_dir() and (path / CONFIG).is_file() and "family" in read_object(path / CONFIG)
    return FoundCheckpoint(path, portable, _recipe(path, portable), *tokenizer_of(path))


def tokenizer_of(path: Path) -> tuple[Path | None, str]:
    """The tokenizer.json in the folder `path`, or beside the file, and the token that ends its documents."""
    folder = path if path.is_dir() else path.parent
    file = folder / TOKENIZER
    return (file, _eos(folder)) if file.is_file() else (None, _EOS)


def _recipe(path: Path, portable: bool) -> ModelRecipe:
    if portable:
        return read_recipe(path / CONFIG)
    from athanor.models.checkpoints.foreign import foreign_recipe

    return foreign_recipe(path)


def _eos(folder: Path) -> str:
    """What our meta file says; of a published tokenizer the default where it has that, else its own end of sequence."""
    if (folder / TOKENIZER_META).is_file():
        meta = read_json(folder / TOKENIZER_META)
        return str(meta["eos"]) if isinstance(meta, dict) and "eos" in meta else _EOS
    added = read_object(folder / TOKENIZER).get("added_tokens") or []
    config = folder / "tokenizer_config.json"
    said = read_object(config).get("eos_token") if config.is_file() else None
    if said is None or any(token.get("content") == _EOS for token in added):
        return _EOS
    return said["content"] if isinstance(said, dict) else said

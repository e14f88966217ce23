"""Portable checkpoints: one folder that everything downstream reads, and that nothing unpickles.

    model.safetensors       parameters and persistent buffers, the tied head once
    config.json             the model recipe with vocab_size filled in
    tokenizer.json, tokenizer_meta.json, token_bytes.npy
                            copied from the tokenizer artifact

In that form a checkpoint is read by generation, evaluation, fine-tuning and export alike.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from athanor.core.errors import UserError
from athanor.models.build import build_on_meta
from athanor.models.checkpoints.files import CONFIG, TOKENIZER_META, WEIGHTS, read_json, read_recipe, reason
from athanor.models.model_recipe import ModelRecipe
from athanor.models.skeleton import LanguageModel

_TOKENIZER_FILES = {
    "tokenizer.json": "tokenizer.json",
    "meta.json": TOKENIZER_META,
    "token_bytes.npy": "token_bytes.npy",
}


def save_portable(folder: Path, model: LanguageModel, tokenizer_dir: Path) -> None:
    """Write the model and its tokenizer into `folder`, which is created."""
    write_portable(folder, model.recipe, model.state_dict(), tokenizer_dir)


def write_portable(folder: Path, recipe: ModelRecipe, weights: Mapping[str, Tensor], tokenizer_dir: Path) -> None:
    """The same from whole `weights`, named as in the model's state dict."""
    folder.mkdir(parents=True, exist_ok=True)
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}
    save_file(state, folder / WEIGHTS)
    (folder / CONFIG).write_text(recipe.model_dump_json(indent=2) + "\n", encoding="utf-8")
    for source, name in _TOKENIZER_FILES.items():
        shutil.copyfile(tokenizer_dir / source, folder / name)


def load_portable(folder: str | Path, device: str | torch.device = "cpu") -> LanguageModel:
    """The model in eval mode. UserError, one line, for a missing, truncated or mismatched file."""
    folder = Path(folder)
    recipe = read_recipe(folder / CONFIG)
    _check_tokenizer(folder / TOKENIZER_META, recipe)
    model = build_on_meta(recipe)
    weights = folder / WEIGHTS
    state = _read_weights(weights, device)
    _check_state(weights, state, model.state_dict())
    # Copied: where tensors lie in a file, some processors' matrix products give other last bits.
    model.load_state_dict({name: tensor.clone() for name, tensor in state.items()}, assign=True)
    return model.eval()


def _check_tokenizer(path: Path, recipe: ModelRecipe) -> None:
    meta = read_json(path)
    size = meta.get("vocab_size") if isinstance(meta, dict) else None
    if not isinstance(size, int) or recipe.vocab_size is None or size > recipe.vocab_size:
        raise UserError(
            f"{path} has vocab_size {size}, the model {recipe.vocab_size}: the checkpoint mixes two tokenizers"
        )


def _read_weights(path: Path, device: str | torch.device) -> dict[str, Tensor]:
    place = torch.device(device)
    try:
        return load_file(path, device="cpu" if place.type == "cpu" else str(place))  # a CPU has no index there
    except FileNotFoundError:
        raise UserError(f"{path} is missing: this is not a portable checkpoint, or not all of one") from None
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path} cannot be read ({reason(error)}): copy or write the checkpoint again") from None


def _check_state(path: Path, state: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    odd = sorted(state.keys() ^ expected.keys())
    if odd:
        verb = "lacks" if odd[0] in expected else "has an unexpected"
        raise UserError(f"{path} {verb} tensor {odd[0]} ({len(odd)} differ): it is not of the model in {CONFIG}")
    for name, tensor in state.items():
        if tensor.shape != expected[name].shape:
            raise UserError(
                f"{path}: {name} has shape {list(tensor.shape)}, {CONFIG} asks for {list(expected[name].shape)}"
            )

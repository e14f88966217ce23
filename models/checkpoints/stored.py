"""Weight files of other systems, opened without running anything that is in them.

A .pt file may hold tensors and plain values only (`weights_only`); what else it wants to build is refused. Large files
are mapped, not read.
"""

from __future__ import annotations

import pickle
import warnings
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from athanor.core.errors import UserError
from athanor.models.checkpoints.files import CONFIG, read_object, reason, weight_files

TENSOR_KEYS = ("model_state_dict", "model")  # what holds the tensors where they have neighbours
WRAPPERS = ("_orig_mod.", "_original_module.", "module.")  # prefixes that compilers and launchers leave behind


@dataclass(frozen=True)
class Stored:
    """Tensors by name, what lies beside them in their file, and the config.json beside that file."""

    tensors: Mapping[str, Tensor]
    beside: Mapping[str, Any]
    config: Mapping[str, Any]


def read_stored(path: Path) -> Stored:
    """Open a .safetensors file, a file of torch.save, or a folder of safetensors. UserError if it is none of them."""
    folder = path if path.is_dir() else path.parent
    config = read_object(folder / CONFIG) if (folder / CONFIG).exists() else {}
    files = weight_files(path)
    if path.is_dir() or path.suffix == ".safetensors":
        tensors = {name: tensor for file in files for name, tensor in _read_safetensors(file).items()}
        return Stored(_unwrapped(path, tensors), {}, config)
    found = _read_torch(path)
    key = next((key for key in TENSOR_KEYS if key in found), None)
    tensors = found if key is None else found[key]
    return Stored(_unwrapped(path, tensors), {} if key is None else found, config)


def _read_torch(path: Path) -> dict[str, Any]:
    try:
        with warnings.catch_warnings(action="ignore"):  # torch's thoughts about other pickle protocols
            found = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except pickle.UnpicklingError:
        raise UserError(
            f"{path} is no file of torch.save, or wants to build more than tensors and plain values, which could run "
            "code: ask for its weights alone, best as .safetensors"
        ) from None
    except Exception as error:  # a damaged file fails wherever torch happens to stumble over it
        raise UserError(f"{path} cannot be read ({reason(error)}): it is damaged or cut short; copy it again") from None
    if not isinstance(found, dict):
        raise UserError(f"{path} holds {type(found).__name__}, not the tensors of a model by name")
    return found


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path} cannot be read ({reason(error)}): it is damaged or cut short; copy it again") from None


def _unwrapped(path: Path, tensors: Any) -> dict[str, Tensor]:
    """The tensors by their bare names."""
    if not isinstance(tensors, dict) or not all(isinstance(tensor, Tensor) for tensor in tensors.values()):
        keys = ", ".join(map(str, list(tensors)[:4])) if isinstance(tensors, dict) else type(tensors).__name__
        raise UserError(f"{path} holds {keys}: no tensors by name, alone or under {' or '.join(TENSOR_KEYS)}")
    bare = {}
    for name, tensor in tensors.items():
        for wrapper in WRAPPERS:
            name = str(name).removeprefix(wrapper)
        bare[name] = tensor
    return bare

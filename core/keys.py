"""Keys: the sha256 that identifies what a stage makes, and the one text of a value that it is taken over.

The key covers the stage's name, its code version, the canonical JSON of its recipe and its parents' keys; nothing about
the machine goes into it. Invariant: equal values have one canonical text, whatever the order of their fields.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from pydantic import BaseModel


def canonical_json(value: Any) -> str:
    """One text for one value: sorted keys, no spaces, None-valued fields of models left out.

    Raises TypeError for anything without a canonical form (functions, sets, NaN, arbitrary objects).
    """
    return json.dumps(plain(value), sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def plain(value: Any) -> Any:
    """The value as dicts, lists, texts and numbers. Raises TypeError for anything without a canonical form."""
    if isinstance(value, BaseModel):
        return plain(value.model_dump(mode="python", exclude_none=True))
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, dict):
        if not all(isinstance(k, str) for k in value):
            raise TypeError(f"only text keys have a canonical form: {list(value)[:3]!r}")
        return {k: plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    raise TypeError(f"{type(value).__name__} has no canonical form: {value!r:.80}")


def artifact_key(stage: str, code_version: int, recipe: Any, parents: dict[str, str]) -> str:
    """The sha256 (hex) that identifies what a stage makes from a recipe and its parents' keys."""
    identity = {"stage": stage, "code_version": code_version, "recipe": recipe, "parents": parents}
    return hashlib.sha256(canonical_json(identity).encode()).hexdigest()


def sha256_file(path: Path) -> str:
    """Hex sha256 of a file's bytes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

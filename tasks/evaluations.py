"""What an evaluation left in the store, read for those who show it."""

from __future__ import annotations

import json
from typing import Any

from athanor.core.store import Artifact


def read_evaluation(artifact: Artifact) -> dict[str, Any]:
    """Its `result.json`, and under `items` what came of each item; those of older artifacts are not known."""
    result = json.loads(artifact.file("result.json").read_text(encoding="utf-8"))
    kept = "items.json" in artifact.manifest["files"]
    return {**result, "items": json.loads(artifact.file("items.json").read_text(encoding="utf-8")) if kept else {}}

"""What the files of a checkpoint are called, here and in the published folders that use safetensors."""

from __future__ import annotations

from athanor.core.text import one_line

WEIGHTS = "model.safetensors"
CONFIG = "config.json"


def reason(error: object) -> str:
    """What a library says about a bad file, on one line and not too long."""
    return one_line(str(error), 160)

"""Which presets come with Athanor. Imports nothing, so that a shell that completes their names need not wait."""

from __future__ import annotations

from pathlib import Path

FOLDER = Path(__file__).parent


def preset_names() -> list[str]:
    """Names of the presets that come with Athanor."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))

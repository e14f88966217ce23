"""What is wrong with the fields of a file that is not a preset's, whose words are richer (flows/presets/wording.py)."""

from __future__ import annotations

from pydantic import ValidationError

from athanor.core.text import one_line


def mistakes(error: ValidationError, whole: str = "content") -> str:
    """All of them with their fields, on one line; `whole` names what has no field."""
    found = ((".".join(map(str, each["loc"])) or whole, one_line(each["msg"], 160)) for each in error.errors())
    return "; ".join(f"{field}: {message}" for field, message in found)

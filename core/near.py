"""The name that was meant where one is written that is not there: one rule for presets, fields and all kinds."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

_ALIKE = 0.7  # of difflib's ratio: quikstart is like quickstart, gpu is not like cpu
_BEGINNING_CHARACTERS = 3


def did_you_mean(given: str, known: Iterable[str]) -> str:
    """`did you mean NAME? ` for the known name most like the given one, whatever its case; nothing if none is."""
    names = {name.lower(): name for name in known}
    wanted = given.lower()
    near = difflib.get_close_matches(wanted, names, 1, _ALIKE)
    if not near and len(wanted) >= _BEGINNING_CHARACTERS:
        near = sorted((name for name in names if name.startswith(wanted)), key=len)[:1]
    return f"did you mean {names[near[0]]}? " if near else ""

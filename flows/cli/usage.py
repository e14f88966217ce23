"""What was typed wrong, in one line: the value, and what to type instead."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from athanor.core.near import did_you_mean

if TYPE_CHECKING:
    from typer.exceptions import TyperException


def usage_line(error: TyperException) -> str:
    """Such as `No such option: --rebuld; see athanor run -h`; empty where the help has been shown instead."""
    said = " ".join(error.format_message().split()).rstrip(".").replace("Value error, ", "")
    if not said:
        return ""
    for problem in getattr(error.__cause__, "errors", lambda: [])():  # pydantic's, which read the value
        given, choices = str(problem["input"]), re.findall(r"'([^']*)'", said.partition(" is not one of ")[2])
        said = said if choices else f"{said}; got {given!r}"
        said = f"{said}; {did_you_mean(given, choices)}".rstrip("; ")
    context = getattr(error, "ctx", None)
    command = context.command_path if context is not None else "athanor"
    return f"{said}{'' if said.endswith('?') else ';'} see `{command} -h`"

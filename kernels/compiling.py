"""What torch.compile is asked for here."""

from __future__ import annotations

from inspect import signature
from typing import Any

import torch


def recompile_limit(most: int) -> dict[str, Any]:
    """The argument of torch.compile that lets one function have so many graphs; before torch 2.12 there is none, and
    the process's own limit of 8 holds."""
    return {"recompile_limit": most} if "recompile_limit" in signature(torch.compile).parameters else {}

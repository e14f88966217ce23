"""What a stage reads that no stage makes: files of the user's, repositories of the hub, benchmarks.

A stage lists them from the preset alone, so that a run that must fail for one of them fails before anything is paid.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from athanor.data.hub_access import Repository


@dataclass(frozen=True)
class External:
    """One input from outside. `field` is where the preset names it, `members` are the artifacts that are built from it.

    `check` raises UserError for what is wrong with it here; `repositories` are asked for only while a member is still
    to be built, and may raise UserError where `check` does.
    """

    field: str
    members: tuple[str, ...]
    check: Callable[[], object]
    repositories: Callable[[], Iterable[Repository]] = tuple

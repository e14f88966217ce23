"""Which commit a hub repository is read at: what its branch pointed to when it was first seen from here, ever after.

A branch moves, and a key must not stand for two texts. So the commit is part of the key of what is read, a rebuilt
artifact is the same again, and who wants what came since says so: `hub_revision`, or another ATHANOR_HOME. Commits are
remembered in `<home>/hub-commits.jsonl`; a revision that is a commit itself needs no memory.
"""

from __future__ import annotations

import re

from athanor.core.notes import Notes
from athanor.data.hub_access import Repository

_COMMIT = re.compile("[0-9a-f]{40}")
_NOTES = Notes("hub-commits.jsonl")


def commit_of(repository: Repository) -> str | None:
    """The commit a repository is read at, 40 hex digits; None if it was never seen."""
    if repository.revision is not None and _COMMIT.fullmatch(repository.revision):
        return repository.revision
    commit = _NOTES.answer(_question(repository))
    return commit if isinstance(commit, str) and _COMMIT.fullmatch(commit) else None


def note_commit(repository: Repository, commit: str | None) -> None:
    """Remember what the hub says of a repository that was never seen; None, or no commit, is nothing to remember."""
    if commit is not None and _COMMIT.fullmatch(commit) and commit_of(repository) is None:
        _NOTES.note(_question(repository), commit)


def _question(repository: Repository) -> dict[str, str]:
    return {"kind": repository.kind, "repo": repository.repo, "revision": repository.revision or "main"}

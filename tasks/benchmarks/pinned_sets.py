"""The hub's data sets of a benchmark, each at the commit that is in the key of its scores.

lm-eval's tasks cannot be told a commit, so `datasets` is told on its way to it. Without a network `datasets` takes the
newest copy in its cache, whatever commit was asked for; the folder of what it loaded says which one that was.
Invariant: a set that is not of the commit in the key is refused, and one that has none there is named.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from athanor.core.errors import UserError

_COMMIT = re.compile("[0-9a-f]{40}")
UNKNOWN = "unknown commit"


@contextmanager
def pinned(commits: Mapping[str, str], hub_sets: Collection[str]) -> Iterator[dict[str, str]]:
    """Within: data sets are loaded at these commits. What comes out fills up: each of `hub_sets` without a commit ->
    the one that was read. Loading raises UserError for a copy of another commit."""
    import datasets

    load, unpinned = datasets.load_dataset, {}

    def load_pinned(path: str, *args: Any, **kwargs: Any) -> Any:
        if path in commits and kwargs.get("revision") is None:
            kwargs["revision"] = commits[path]
        loaded = load(path, *args, **kwargs)
        if path in hub_sets:
            read, asked = _commit_read(loaded), commits.get(path)
            if asked is None:
                unpinned[path] = read or UNKNOWN
            elif read not in (None, asked):
                raise UserError(
                    f"data set {path}: the copy in the cache of `datasets` is of {read}, and {asked} is asked for; go "
                    "online, or remove the newer copy"
                )
        return loaded

    datasets.load_dataset = load_pinned
    try:
        yield unpinned
    finally:
        datasets.load_dataset = load


def unpinned_text(unpinned: Mapping[str, str]) -> str:
    """`read at no fixed commit: openai/gsm8k (0123…)`, with what that means."""
    sets = ", ".join(f"{repo} ({commit})" for repo, commit in unpinned.items())
    return f"read at no fixed commit: {sets}; the same key may stand for other items"


def _commit_read(loaded: Any) -> str | None:
    """The commit of loaded splits, by the folder they lie in; None where it does not say."""
    files = getattr(loaded, "cache_files", None)
    listed = [file for split in files.values() for file in split] if isinstance(files, dict) else files or []
    found = {Path(file["filename"]).parent.name for file in listed}
    return next(iter(found)) if len(found) == 1 and _COMMIT.fullmatch(next(iter(found))) else None

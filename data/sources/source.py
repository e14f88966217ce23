"""What a source declares of itself, beside its reader, and the tables of all sources.

A module of this package that holds `BUILTIN` (one Source or a tuple) adds values to the recipe's `builtin`; one that
holds `ORIGIN` reads the recipe's field of that name. Whatever depends on the kind of a source asks its record.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from athanor.core.errors import UserError
from athanor.core.kinds import Kinds
from athanor.data.data_recipe import BUILTIN_SOURCES, ChatSourceRecipe, SourceRecipe
from athanor.data.hub_access import Repository
from athanor.data.sources.records import Raw, Reject

Identity = dict[str, Any]


@dataclass(frozen=True)
class PassedOver:
    """What a source finds and does not read: how many files, in words, and whether one would not expect that."""

    files: int = 0
    text: str = ""
    unexpected: bool = False


@dataclass(frozen=True, kw_only=True)
class Source:
    """One kind of source; what its functions raise as UserError is one line for the user."""

    name: str  # the value of `builtin`, or the recipe's own field
    read: Callable[[SourceRecipe, Sequence[str]], Iterator[Raw | Reject]]  # its records, with at least these fields
    identity: Callable[[SourceRecipe], Identity]  # what beyond the recipe fixes the text: hashes, versions; in the key
    read_bytes_per_s: float  # of text, from the source to documents on the disk
    document_bytes: float  # of text in a document, about
    whole_bytes: Callable[[SourceRecipe, Identity], float | None]  # of all text; None where only reading it tells
    title: Callable[[SourceRecipe], str] = lambda recipe: f"builtin {recipe.builtin}"  # its name in messages
    repository: Callable[[SourceRecipe], Repository | None] = lambda recipe: None  # what the hub must let us read
    first_records: Callable[[SourceRecipe, Sequence[str]], Iterator[Raw | Reject]] | None = None  # `read`, where cheap
    passed_over: Callable[[SourceRecipe], PassedOver] = lambda recipe: PassedOver()  # files that are there and not read
    conversations: bool = True  # whether its records may hold some

    def text_bytes(self, recipe: SourceRecipe, identity: Identity) -> float | None:
        """About how much text the recipe asks for, UTF-8 bytes; None where only reading it tells."""
        bounds = [recipe.max_bytes, self.whole_bytes(recipe, identity)]
        if recipe.max_documents is not None:
            bounds.append(recipe.max_documents * self.document_bytes)
        return min((bound for bound in bounds if bound is not None), default=None)


_ORIGINS: Kinds[Source] = Kinds("source", "athanor.data.sources", "ORIGIN")


def source_of(recipe: SourceRecipe) -> Source:
    """The kind of source a recipe names. Raises UserError for conversations from one that holds none."""
    if recipe.builtin is None:
        return _ORIGINS[recipe.origin]
    source: Source = BUILTIN_SOURCES[recipe.builtin]
    if isinstance(recipe, ChatSourceRecipe) and not source.conversations:
        able = ", ".join(other.name for other in BUILTIN_SOURCES.records() if other.conversations)
        raise UserError(f"{source.title(recipe)}: holds no conversations; use {able}, or `path` or `hub`")
    return source

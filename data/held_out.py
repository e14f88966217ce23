"""How much of a source is held out of training, in words, and whether that is enough to say anything."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from athanor.core.numbers import size

LEAST_DOCUMENTS = 8  # below it no interval covers what it says it does
LEAST_BYTES = 64_000


@dataclass(frozen=True)
class HeldOut:
    """How much of a source is held out. `copies` were left out; `is_end` where it is the end of a text trained on."""

    documents: int
    text_bytes: int
    asked_bytes: int
    copies: int
    is_end: bool

    @classmethod
    def of(cls, facts: Mapping[str, Any]) -> HeldOut | None:
        """From the facts of a documents artifact; None of those made before it was counted, and where none was asked
        for."""
        if not facts.get("held_out_asked_bytes"):
            return None
        return cls(
            facts["held_out_documents"],
            facts["held_out_bytes"],
            facts["held_out_asked_bytes"],
            facts["held_out_copies"],
            facts["held_out_is_end"],
        )

    @property
    def problem(self) -> str | None:
        """Why it tells too little, with the remedy; None where it is enough."""
        remedy = "give more text, or a higher held_out_fraction"
        if not self.documents:
            return f"no document is short enough to be held out, so nothing is evaluated on this source; {remedy}"
        if self.is_end:
            return "what is held out is the end of the text it trains on, so its score flatters; give more documents"
        if self.documents < LEAST_DOCUMENTS or self.text_bytes < LEAST_BYTES:
            least = f"{LEAST_DOCUMENTS} documents and {size(LEAST_BYTES)}"
            return f"too little to compare models by (at least {least}); {remedy}"
        return None

    def __str__(self) -> str:
        what = "the end of the one document" if self.is_end else f"{self.documents:,} documents"
        copies = f", {self.copies:,} further copies of them left out" if self.copies else ""
        return f"held out {what}: {size(self.text_bytes)} of {size(self.asked_bytes)} asked for{copies}"

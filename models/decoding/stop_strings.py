"""Where an answer's text ends: at the stop string that is complete first, whatever tokens it is made of.

`AnswerText` turns ids into text as they come. What it has given out stays: it holds back bytes that are not yet a
whole character, and characters that may be the beginning of a stop string. Its pieces together are
`cut_at_stop` of the whole text, whatever the tokenization.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

INCOMPLETE = "\N{REPLACEMENT CHARACTER}"  # what decoding puts for bytes that are no whole character


def cut_at_stop(text: str, stops: Sequence[str]) -> tuple[str, bool]:
    """The text before the stop string that ends first, and whether there was one; of two that end together the longer
    counts. An empty stop string stops nothing."""
    found = [(at + len(stop), at) for stop in stops if stop and (at := text.find(stop)) >= 0]
    return (text[: min(found)[1]], True) if found else (text, False)


class AnswerText:
    """One answer as it grows. `decode` must be that of a byte-level tokenizer."""

    def __init__(self, decode: Callable[[Sequence[int]], str], stops: Sequence[str]):
        self.stopped = False
        self._decode = decode
        self._stops = stops
        self._undecoded: list[int] = []
        self._held = ""

    def add(self, token: int) -> str:
        """Take the next id; returns the text that is now certain, often empty."""
        self._undecoded.append(token)
        if (text := self._decode(self._undecoded)).endswith(INCOMPLETE):
            return ""
        self._undecoded.clear()
        return self._release(text, self._beginnings)

    def rest(self) -> str:
        """What was held back, when no further id comes."""
        return self._release(self._decode(self._undecoded), lambda _: 0)

    def _release(self, text: str, held_back: Callable[[str], int]) -> str:
        if self.stopped:
            return ""
        text, self.stopped = cut_at_stop(self._held + text, self._stops)
        certain = len(text) if self.stopped else len(text) - held_back(text)
        self._held = text[certain:]
        return text[:certain]

    def _beginnings(self, text: str) -> int:
        """Length of the longest end of `text` with which a stop string begins."""
        lengths = (n for stop in self._stops for n in range(1, len(stop)) if text.endswith(stop[:n]))
        return max(lengths, default=0)

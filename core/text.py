"""Foreign text (samples, labels, messages) made fit to be seen.

`clean` makes any string printable: it is the single gate between untrusted text and a page.
"""

from __future__ import annotations

import re
import unicodedata

ELLIPSIS = "…"


def clean(text: str) -> str:
    """`text` with only printable characters, tabs and newlines.

    Control characters become their visible pictures (U+2400 block), lone surrogates, noncharacters and bidirectional
    overrides U+FFFD, so that the result encodes as UTF-8 and can neither break a page nor reorder what surrounds it.
    """
    return "".join(_visible(c) for c in text.replace("\r\n", "\n"))


def _visible(character: str) -> str:
    if character in "\n\t":
        return character
    code = ord(character)
    if code < 0x20:
        return chr(0x2400 + code)
    if code == 0x7F:
        return "\u2421"
    category = unicodedata.category(character)
    override = 0x202A <= code <= 0x202E or 0x2066 <= code <= 0x2069
    noncharacter = code & 0xFFFE == 0xFFFE or 0xFDD0 <= code <= 0xFDEF
    return "\ufffd" if category in ("Cc", "Cs") or override or noncharacter else character


def flatten(text: str) -> str:
    """`text` with every run of blanks and line ends as one space."""
    return re.sub(r"[ \t\n\u2028\u2029]+", " ", text).strip()


def one_line(text: str, limit: int) -> str:
    """`text` cleaned, on one line, cut to `limit` characters with an ellipsis."""
    flat = flatten(clean(text))
    return flat if len(flat) <= limit else flat[: limit - 1].rstrip() + ELLIPSIS

"""Numbers, durations, money and foreign text as a reader wants to see them.

Numbers carry three significant digits and thousands separators; counts are exact below ten thousand and compact above.
A number and its unit are joined by a no-break space.
`clean` makes any string printable: it is the single gate between untrusted text (samples, labels, messages) and a page.
"""

from __future__ import annotations

import math
import re
import unicodedata

ELLIPSIS = "…"
NBSP = "\u00a0"


def number(value: float | None, digits: int = 3) -> str:
    """`value` with `digits` significant digits: 0.0123, 1.31, 151, 12,300, 3.00e−07; `–` for None."""
    if value is None:
        return "–"
    if not math.isfinite(value):
        return "not finite"
    if value == 0:
        return "0"
    exponent = math.floor(math.log10(abs(float(f"{value:.{digits - 1}e}"))))
    if exponent < -4 or exponent > 11:
        return f"{value:.{digits - 1}e}".replace("-", "−")
    decimals = max(digits - 1 - exponent, 0)
    return f"{round(value, digits - 1 - exponent):,.{decimals}f}".replace("-", "−")


def whole(value: float) -> str:
    """An exact count with thousands separators: 1,067,520."""
    return f"{int(value):,}"


def compact(value: float) -> str:
    """A count for prose: 8,192, then 12.3 k, 1.07 M, 10.2 B, 3.1 T."""
    if abs(value) < 10_000:
        return whole(value)
    for limit, unit in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= 0.9995 * limit:
            return f"{number(value / limit)}{NBSP}{unit}"
    raise AssertionError(value)


def size(value_bytes: float) -> str:
    """Bytes in decimal units: 812 B, 12.3 kB, 1.07 GB."""
    for limit, unit in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if value_bytes >= 0.9995 * limit:
            return f"{number(value_bytes / limit)}{NBSP}{unit}"
    return f"{int(value_bytes)}{NBSP}B"


def share(value: float | None) -> str:
    """A fraction as a percentage with one decimal: 12.5 %."""
    return "–" if value is None else f"{100 * value:.1f}{NBSP}%"


def duration(value_s: float) -> str:
    """Seconds as the two largest units: 120 ms, 4.2 s, 2 min 14 s, 3 h 05 min, 12 d 4 h."""
    if value_s < 0.9995:
        return f"{value_s * 1000:.0f}{NBSP}ms"
    if value_s < 59.95:
        return f"{number(value_s, 2 if value_s < 9.95 else 3)}{NBSP}s"
    seconds = round(value_s)
    if seconds < 3600:
        return f"{seconds // 60}{NBSP}min {seconds % 60:02d}{NBSP}s"
    minutes = round(value_s / 60)
    if minutes < 24 * 60:
        return f"{minutes // 60}{NBSP}h {minutes % 60:02d}{NBSP}min"
    hours = round(value_s / 3600)
    return f"{hours // 24}{NBSP}d {hours % 24}{NBSP}h"


def money(value_usd: float) -> str:
    """US dollars and cents; an amount that rounds to nothing but is not nothing reads `< $0.01`."""
    return "< $0.01" if 0 < value_usd < 0.005 else f"${value_usd:,.2f}"


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

"""Numbers, sizes, durations and money as a reader wants to see them; nobody else formats them.

Numbers carry three significant digits and thousands separators; counts are exact below ten thousand and compact above.
A number and its unit are joined by a no-break space; what is not known is `–`.

Bytes of text, of files and on disk are decimal (kB, MB, GB), as disks are sold and filled. The memory of a device is
binary (MiB, GiB), as it is built, and as its drivers and its data sheet count it.
"""

from __future__ import annotations

import math

NBSP = "\u00a0"
UNKNOWN = "–"
_DECIMAL = ((1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))
_BINARY = ((2.0**40, "Ti"), (2.0**30, "Gi"), (2.0**20, "Mi"), (2.0**10, "Ki"))


def number(value: float | None, digits: int = 3) -> str:
    """`value` with `digits` significant digits: 0.0123, 1.31, 151, 12,300, 3.00e−07; `–` for None."""
    if value is None:
        return UNKNOWN
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


def compact(value: float | None) -> str:
    """A count for prose: 8,192, then 12.3 k, 1.07 M, 10.2 B, 3.1 T."""
    if value is None:
        return UNKNOWN
    if abs(value) < 10_000:
        return whole(value)
    for limit, unit in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= 0.9995 * limit:
            return f"{number(value / limit)}{NBSP}{unit}"
    raise AssertionError(value)


def quantity(value: float, unit: str = "") -> str:
    """An amount with a decimal prefix before its unit: 812 FLOPs, 1.49 GFLOPs."""
    return _prefixed(value, unit, _DECIMAL)


def size(value_bytes: float) -> str:
    """Bytes of text, of files, on disk: 812 B, 12.3 kB, 1.07 GB."""
    return _prefixed(value_bytes, "B", _DECIMAL)


def memory(value_bytes: float) -> str:
    """Bytes in a device's memory: 12.0 KiB, 512 MiB, 79.2 GiB."""
    return _prefixed(value_bytes, "B", _BINARY)


def share(value: float | None) -> str:
    """A fraction as a percentage with one decimal: 12.5 %."""
    return UNKNOWN if value is None else f"{100 * value:.1f}{NBSP}%"


def duration(value_s: float | None) -> str:
    """Seconds as the two largest units: 120 ms, 4.2 s, 2 min 14 s, 3 h 05 min, 12 d 4 h."""
    if value_s is None:
        return UNKNOWN
    if value_s < 0:
        return f"−{duration(-value_s)}"
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


def money(value_usd: float | None) -> str:
    """US dollars and cents; an amount that rounds to nothing but is not nothing reads `< $0.01`."""
    if value_usd is None:
        return UNKNOWN
    if value_usd < 0:
        return f"−{money(-value_usd)}"
    return "< $0.01" if 0 < value_usd < 0.005 else f"${value_usd:,.2f}"


def _prefixed(value: float, unit: str, prefixes: tuple[tuple[float, str], ...]) -> str:
    for limit, prefix in prefixes:
        if abs(value) >= 0.9995 * limit:
            return f"{number(value / limit)}{NBSP}{prefix}{unit}"
    return f"{whole(value)}{NBSP}{unit}".rstrip(NBSP)

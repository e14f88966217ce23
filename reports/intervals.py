"""How sure a score is, and whether two models' scores differ: nothing is said on fewer than LEAST_N items.

    yes or no    Wilson's interval (Wilson 1927), which stays inside [0, 1] and has width at 0 % and 100 %
    all else     jackknife standard error (Tukey 1958), Student's t with n_eff - 1 degrees of freedom

where n_eff = (sum w)^2 / sum w^2 is the number of items that carry the weight (Kish 1965): of sixteen documents one of
which is longer than the rest together, hardly two. `python -m athanor.reports.benchmarks.interval_coverage` measures
how often these intervals hold the truth.

Two models that answered the same items are compared item by item: yes and no by the exact test of those on which they
differ (McNemar 1947), all else by the same interval of the differences. Different items are not compared.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

LEAST_N = 8
LEVEL = 0.95
Z_95 = 1.959963984540054  # standard normal quantile at 0.975

Item = float | Sequence[float]  # a number; or a sum and its weight, such as log-likelihood and bytes


def wilson_interval(successes: float, n: int) -> tuple[float, float]:
    """95 % interval of a proportion; `n` >= 1. Exactly 0 or 1 at the ends, as the formula is but for rounding."""
    share, spread = successes / n, Z_95**2 / n
    centre = share + spread / 2
    half = Z_95 * math.sqrt(share * (1 - share) / n + spread / (4 * n))
    low = 0.0 if successes == 0 else (centre - half) / (1 + spread)
    high = 1.0 if successes == n else (centre + half) / (1 + spread)
    return low, high


def jackknife_interval(items: list[Any], statistic: Callable[[list[Any]], float]) -> tuple[float, float]:
    """95 % interval of a statistic of two items or more, each weighing what the second of a pair says, or alike."""
    from scipy.stats import t

    n, value = len(items), statistic(items)
    left_out = [statistic([*items[:i], *items[i + 1 :]]) for i in range(n)]
    error = math.sqrt((n - 1) / n * sum((other - value) ** 2 for other in left_out))
    half = float(t.ppf((1 + LEVEL) / 2, max(1.0, effective_n(items) - 1))) * error
    return value - half, value + half


def interval(items: list[Any], statistic: Callable[[list[Any]], float]) -> tuple[float, float] | None:
    """The 95 % interval of a score; None on fewer than LEAST_N items."""
    if len(items) < LEAST_N:
        return None
    return wilson_interval(sum(items), len(items)) if are_yes_or_no(items) else jackknife_interval(items, statistic)


def are_yes_or_no(items: Sequence[Any]) -> bool:
    """Whether every item is 0 or 1."""
    return all(isinstance(item, int | float) and item in (0, 1) for item in items)


def effective_n(items: Sequence[Any]) -> float:
    """How many items of equal weight would weigh as evenly as these."""
    weights = [item[1] if isinstance(item, Sequence) and len(item) == 2 else 1.0 for item in items]
    return sum(weights) ** 2 / max(sum(weight**2 for weight in weights), 1e-300)


def differ(ours: Mapping[str, Any] | None, theirs: Mapping[str, Any] | None) -> bool | None:
    """Whether two models differ at the 5 % level in what they made of the same items; None if that cannot be said.

    Each is {sha256 of the items, values: what came of each, in order}.
    """
    if ours is None or theirs is None or ours["sha256"] != theirs["sha256"] or len(ours["values"]) < LEAST_N:
        return None
    pairs = list(zip(ours["values"], theirs["values"], strict=True))
    if all(are_yes_or_no(pair) for pair in pairs):
        return _mcnemar(pairs)
    differences = [_difference(*pair) for pair in pairs]
    low, high = jackknife_interval(differences, _mean)
    return low > 0 or high < 0


def _mcnemar(pairs: Sequence[tuple[float, float]]) -> bool:
    from scipy.stats import binomtest

    only_ours = sum(a > b for a, b in pairs)
    apart = sum(a != b for a, b in pairs)
    return apart > 0 and bool(binomtest(only_ours, apart).pvalue <= 1 - LEVEL)


def _difference(ours: Item, theirs: Item) -> Item:
    if isinstance(ours, Sequence) and isinstance(theirs, Sequence):
        return ours[0] - theirs[0], ours[1]
    return ours - theirs  # pyright: ignore[reportOperatorIssue]


def _mean(items: list[Any]) -> float:
    if isinstance(items[0], Sequence):
        return sum(item[0] for item in items) / sum(item[1] for item in items)
    return sum(items) / len(items)

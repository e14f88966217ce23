"""Stable mixture: which source each slot of each step reads, and how many samples that source has given before.

The schedule w_s(step) is constant, then linear. Its running total C_s(k) is the number of samples source s should
have given after k steps; the realised number R_s(k) is a whole number. Invariant: at every step and for every source
|R_s(k) - C_s(k)| < 1, R_s never falls, and a step gives exactly `batch_rows` samples.

Independent rounding cannot do that (a source could be rounded up at one step and down at the next, a negative count),
so it is a schedule: sample i of source s may not come before C_s exceeds i-1 and must come by the time C_s reaches i.
The fractional schedule C itself meets every such window, hence whole samples can too, and taking the earliest
deadline first finds the way (unit jobs with release times and deadlines on `batch_rows` identical machines).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from data.config import MixtureRecipe
from data.permutation import hash64, name_key, permute

_GRID = 1 << 20  # running totals are snapped to 2^-20 sample, so that e.g. ten times 0.7 reaches 7 exactly
_SLOT_KEY = name_key("slots of a step")


class Mixture:
    """The mixture of a run: `steps` steps of `batch_rows` slots, as a pure function of the recipe and seed.

    Holds one table of running totals, int64 [steps + 1, sources]; sources are in sorted order.
    """

    def __init__(self, recipe: MixtureRecipe, *, seed: int, steps: int, batch_rows: int):
        self.sources = sorted(recipe.start)
        self.seed, self.steps, self.batch_rows = seed, steps, batch_rows
        self.weights_NS = scheduled_weights(recipe, steps)
        self.totals_KS = running_totals(self.weights_NS, batch_rows)

    def counts(self, step: int) -> dict[str, int]:
        """Samples of each source in a step; they sum to `batch_rows`."""
        self._check(step)
        counts_S = self.totals_KS[step + 1] - self.totals_KS[step]
        return dict(zip(self.sources, counts_S.tolist(), strict=True))

    def assign(self, step: int, slots: ArrayLike) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """(source index, ordinal of the sample within its source since step 0), one each per slot.

        A keyed permutation of the slots spreads the sources over the ranks. Raises IndexError outside the run.
        """
        self._check(step)
        place_N = permute(slots, self.batch_rows, hash64(self.seed, _SLOT_KEY, step))
        before_S = self.totals_KS[step]
        end_S = np.cumsum(self.totals_KS[step + 1] - before_S)
        source_N = np.searchsorted(end_S, place_N, side="right")
        start_S = np.concatenate([[0], end_S[:-1]])
        return source_N, before_S[source_N] + place_N - start_S[source_N]

    def _check(self, step: int) -> None:
        if not 0 <= step < self.steps:
            raise IndexError(f"step {step} is outside the run of {self.steps} steps")


def scheduled_weights(recipe: MixtureRecipe, steps: int) -> NDArray[np.float64]:
    """Weights [steps, sources] (sorted names, rows sum to 1): `start`, then linear; the last step has `end`."""
    start_S, end_S = (
        np.array([weights[s] for s in sorted(weights)], dtype=np.float64)
        for weights in (recipe.start, recipe.end or recipe.start)
    )
    start_S, end_S = start_S / start_S.sum(), end_S / end_S.sum()
    annealed_steps = steps * recipe.anneal_fraction
    if annealed_steps == 0:
        return np.tile(start_S, (steps, 1))
    progress_N = (np.arange(1, steps + 1) - (steps - annealed_steps)) / annealed_steps
    progress_N = np.clip(progress_N, 0.0, 1.0)[:, None]
    return (1 - progress_N) * start_S + progress_N * end_S


def running_totals(weights_NS: NDArray[np.float64], batch_rows: int) -> NDArray[np.int64]:
    """Whole samples given before each step, [steps + 1, sources], within one of the running sum of the weights."""
    steps, sources = weights_NS.shape
    units_KS = np.zeros((steps + 1, sources), dtype=np.int64)
    units_KS[1:] = np.rint(np.cumsum(weights_NS, axis=0) * batch_rows * _GRID)
    whole_KS, fraction_KS = np.divmod(units_KS, _GRID)
    due_KS = np.empty_like(units_KS)
    for s in range(sources):
        due_KS[:, s] = np.searchsorted(units_KS[:, s], (whole_KS[:, s] + 1) * _GRID)
    due_KS[fraction_KS == 0] = steps + 2  # not yet released: after every real deadline
    by_deadline_KS = np.argsort(due_KS, axis=1, kind="stable").tolist()
    pending_KS = np.zeros_like(units_KS, dtype=bool)
    pending_KS[1:] = whole_KS[1:] == whole_KS[:-1]
    pending_KS = pending_KS.tolist()
    wanted_K = (np.arange(steps + 1) * batch_rows - whole_KS.sum(axis=1)).tolist()

    early_S = [False] * sources  # has the source given the sample it is only partly due?
    early_KS = [early_S]
    for k in range(1, steps + 1):
        early_S = [e and p for e, p in zip(early_S, pending_KS[k], strict=True)]
        wanted = wanted_K[k] - sum(early_S)
        for s in by_deadline_KS[k]:
            if wanted == 0:
                break
            if not early_S[s]:
                early_S[s] = True
                wanted -= 1
        early_KS.append(early_S)
    return whole_KS + np.array(early_KS, dtype=np.int64)

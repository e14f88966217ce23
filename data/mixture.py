"""Stable mixture: which source each slot of each step reads, and how many samples that source has given before.

The schedule w_s(step) is constant, then linear. Its running total C_s(k) is the number of samples source s should
have given after k steps; the realised number R_s(k) is a whole number. Invariant: at every step and for every source
|R_s(k) - C_s(k)| < 1, R_s never falls, and a step gives exactly `batch_rows` samples. A sample is a row of the step's
phase: counted in tokens since step 0, whatever the phases before, R_s stays within one such row of C_s.

Independent rounding cannot do that (a source could be rounded up at one step and down at the next, a negative count),
so it is a schedule: sample i of source s may not come before C_s exceeds i-1 and must come by the time C_s reaches i.
The fractional schedule C itself meets every such window, hence whole samples can too, and taking the earliest
deadline first finds the way (unit jobs with release times and deadlines on `batch_rows` identical machines).

A phase of longer rows goes on from where the one before ends, and rounds what that one would have gone on to give, for
whole short rows are a schedule of long rows like any other. The two differ by whole short rows and by less than a long
one, hence by at most a long row less a short one; the short rows are within one short row of C. The sum is within a
long row of C.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest

import numpy as np
from numpy.typing import ArrayLike, NDArray

from athanor.data.data_recipe import MixtureRecipe
from athanor.data.permutation import hash64, name_key, permute
from athanor.data.phases import Phase, phase_at

_GRID = 1 << 20  # running totals are snapped to 2^-20 sample, so that e.g. ten times 0.7 reaches 7 exactly
_SLOT_KEY = name_key("slots of a step")


class Mixture:
    """The mixture of a run of `steps` steps in `phases`, as a pure function of the recipe and seed.

    Holds one table per phase: the rows of each source since the phase began, before each of its steps and after the
    last, int64 [phase steps + 1, sources]; sources are in sorted order. `rows_PS` are the last lines, whole phases.
    """

    def __init__(self, recipe: MixtureRecipe, *, seed: int, steps: int, phases: Sequence[Phase]):
        self.sources = sorted(recipe.start)
        self.seed, self.steps, self.phases = seed, steps, tuple(phases)
        self.totals_PKS = phase_totals(scheduled_weights(recipe, steps), phases)
        self.rows_PS = np.stack([totals_KS[-1] for totals_KS in self.totals_PKS])

    def counts(self, step: int) -> dict[str, int]:
        """Samples of each source in a step; they sum to the phase's `batch_rows`."""
        before_S, after_S = self._totals(step)
        return dict(zip(self.sources, (after_S - before_S).tolist(), strict=True))

    def assign(self, step: int, slots: ArrayLike) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """(source index, ordinal of the sample within its source since the phase began), one each per slot.

        A keyed permutation of the slots spreads the sources over the ranks. Raises IndexError outside the run.
        """
        before_S, after_S = self._totals(step)
        batch_rows = self.phases[phase_at(self.phases, step)].batch_rows
        place_N = permute(slots, batch_rows, hash64(self.seed, _SLOT_KEY, step))
        end_S = np.cumsum(after_S - before_S)
        source_N = np.searchsorted(end_S, place_N, side="right")
        start_S = np.concatenate([[0], end_S[:-1]])
        return source_N, before_S[source_N] + place_N - start_S[source_N]

    def _totals(self, step: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Rows of each source since the phase began, before and after a step."""
        if not 0 <= step < self.steps:
            raise IndexError(f"step {step} is outside the run of {self.steps} steps")
        index = phase_at(self.phases, step)
        within = step - self.phases[index].first_step
        return self.totals_PKS[index][within], self.totals_PKS[index][within + 1]


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


def phase_totals(weights_NS: NDArray[np.float64], phases: Sequence[Phase]) -> list[NDArray[np.int64]]:
    """For each phase the rows of each source since it began, [phase steps + 1, sources]."""
    units_KS = np.zeros((len(weights_NS) + 1, weights_NS.shape[1]), dtype=np.int64)
    units_KS[1:] = np.rint(np.cumsum(weights_NS, axis=0) * phases[0].batch_rows * _GRID)
    units_per_row = _GRID
    found: list[NDArray[np.int64]] = []
    for phase, following in zip_longest(phases, phases[1:]):
        rows_KS = whole_totals(units_KS, units_per_row, phase.batch_rows)
        if following is None:
            return [*found, rows_KS]
        steps = following.first_step - phase.first_step
        found.append(rows_KS[: steps + 1])
        units_KS = rows_KS[steps:] - rows_KS[steps]
        units_per_row = following.seq_len_tokens // phase.seq_len_tokens
    return found


def whole_totals(units_KS: NDArray[np.int64], units_per_row: int, batch_rows: int) -> NDArray[np.int64]:
    """Whole rows given before each step, [steps + 1, sources], within one of the running totals asked for.

    `units_KS` are those, int64, in units of which `units_per_row` are a row; a step asks for `batch_rows` rows in sum.
    """
    steps, sources = len(units_KS) - 1, units_KS.shape[1]
    whole_KS, fraction_KS = np.divmod(units_KS, units_per_row)
    due_KS = np.empty_like(units_KS)
    for s in range(sources):
        due_KS[:, s] = np.searchsorted(units_KS[:, s], (whole_KS[:, s] + 1) * units_per_row)
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

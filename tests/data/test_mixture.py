"""The mixture: every source within one row of its schedule at every step, and every slot one sample."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from athanor.data.data_recipe import MixtureRecipe
from athanor.data.mixture import Mixture, scheduled_weights
from athanor.data.phases import Phase, phase_at

MATH_MIX = MixtureRecipe(
    start={"math": 0.70, "stem": 0.25, "code": 0.05}, end={"math": 0.85, "stem": 0.10, "code": 0.05}
)


def one_phase(rows):
    return (Phase(0, 1, rows),)


weights = st.lists(
    st.one_of(st.just(0.0), st.floats(1e-4, 1.0)), min_size=1, max_size=6
).filter(lambda w: sum(w) > 0)  # fmt: skip


@st.composite
def mixtures(draw):
    start = draw(weights)
    names = [f"s{i}" for i in range(len(start))]
    end = draw(st.none() | st.permutations(start))
    recipe = MixtureRecipe(
        start=dict(zip(names, start, strict=True)),
        end=None if end is None else dict(zip(names, end, strict=True)),
        anneal_fraction=draw(st.sampled_from([0.0, 0.05, 0.2, 0.5, 1.0])),
    )
    seed, steps, rows = draw(st.integers(0, 2**32)), draw(st.integers(1, 120)), draw(st.integers(1, 9))
    growth = draw(st.lists(st.integers(2, 4), max_size=min(3, steps - 1)))
    firsts = [0, *sorted(draw(st.permutations(range(1, steps)))[: len(growth)])]
    lengths = np.cumprod([1, *growth]).tolist()
    phases = [Phase(k, n, rows * lengths[-1] // n) for k, n in zip(firsts, lengths, strict=True)]
    return recipe, Mixture(recipe, seed=seed, steps=steps, phases=phases)


@settings(max_examples=300, deadline=None)
@given(mixtures())
def test_realised_counts_stay_within_one_row_of_the_schedule_at_every_step_of_every_phase(drawn):
    recipe, mixture = drawn
    batch_tokens = mixture.phases[0].seq_len_tokens * mixture.phases[0].batch_rows
    scheduled_tokens = np.cumsum(scheduled_weights(recipe, mixture.steps), axis=0) * batch_tokens
    lengths = np.array([mixture.phases[phase_at(mixture.phases, k)].seq_len_tokens for k in range(mixture.steps)])
    tokens = np.array([list(mixture.counts(k).values()) for k in range(mixture.steps)]) * lengths[:, None]
    assert (np.abs(np.cumsum(tokens, axis=0) - scheduled_tokens) < lengths[:, None]).all()
    assert tokens.min() >= 0
    assert (tokens.sum(axis=1) == batch_tokens).all()


@pytest.mark.parametrize(
    ("weights", "rows"),
    [([4, 8, 6], 2), ([4, 6, 5], 3), ([2, 9, 7, 9], 1), ([7, 3], 1), ([1, 60, 1, 80, 70], 2), ([3, 33, 3, 240], 1)],
)
def test_the_bound_is_strict_in_exact_arithmetic_for_whole_weights(weights, rows):
    names = [f"s{i}" for i in range(len(weights))]
    recipe = MixtureRecipe(start=dict(zip(names, map(float, weights), strict=True)))
    (totals,) = Mixture(recipe, seed=0, steps=400, phases=one_phase(rows)).totals_PKS
    scheduled_times_sum = np.arange(401)[:, None] * rows * np.array(weights)
    assert (np.abs(totals * sum(weights) - scheduled_times_sum) < sum(weights)).all()
    assert np.diff(totals, axis=0).min() >= 0


@settings(max_examples=50, deadline=None)
@given(mixtures())
def test_every_slot_gets_one_source_and_ordinals_run_without_gaps(drawn):
    _, mixture = drawn
    given_so_far = np.zeros((len(mixture.phases), len(mixture.sources)), dtype=int)
    for step in range(mixture.steps):
        phase = phase_at(mixture.phases, step)
        source, ordinal = mixture.assign(step, np.arange(mixture.phases[phase].batch_rows))
        counts = list(mixture.counts(step).values())
        for s in range(len(mixture.sources)):
            mine = sorted(ordinal[source == s].tolist())
            assert mine == list(range(given_so_far[phase, s], given_so_far[phase, s] + counts[s]))
            given_so_far[phase, s] += counts[s]
    assert (given_so_far == mixture.rows_PS).all()


def test_the_published_mixture_holds_over_the_published_run():
    mixture = Mixture(MATH_MIX, seed=0, steps=19_531, phases=one_phase(128))
    weights_NS = scheduled_weights(MATH_MIX, 19_531)
    scheduled = np.cumsum(weights_NS, axis=0) * 128
    assert np.abs(mixture.totals_PKS[0][1:] - scheduled).max() < 1
    at = dict(zip(mixture.sources, weights_NS[15_624 - 1], strict=True))
    assert at == pytest.approx({"math": 0.70, "stem": 0.25, "code": 0.05}, abs=1e-9)
    at = dict(zip(mixture.sources, weights_NS[-1], strict=True))
    assert at == pytest.approx({"math": 0.85, "stem": 0.10, "code": 0.05}, abs=1e-9)
    middle = weights_NS[15_624 + (19_531 - 15_624) // 2, mixture.sources.index("math")]
    assert middle == pytest.approx(0.775, abs=1e-4)


def test_without_an_end_or_annealed_steps_the_weights_are_constant():
    constant = MixtureRecipe(start={"a": 3.0, "b": 1.0})
    none = MixtureRecipe(start={"a": 3.0, "b": 1.0}, end={"a": 0.0, "b": 1.0}, anneal_fraction=0.0)
    for recipe in (constant, none):
        assert (scheduled_weights(recipe, 7) == [0.75, 0.25]).all()


def test_whole_proportions_are_met_exactly_despite_rounding_of_floats():
    mixture = Mixture(MixtureRecipe(start={"a": 0.7, "b": 0.3}), seed=0, steps=100, phases=one_phase(1))
    assert mixture.totals_PKS[0][::10].tolist() == [[7 * i, 3 * i] for i in range(11)]


def test_slots_mix_the_sources_differently_at_each_step():
    mixture = Mixture(MixtureRecipe(start={"a": 1.0, "b": 1.0}), seed=0, steps=8, phases=one_phase(16))
    layouts = {tuple(mixture.assign(k, range(16))[0].tolist()) for k in range(8)}
    assert len(layouts) > 5
    assert all(0 < sum(layout[:8]) < 8 for layout in layouts)


def test_steps_and_slots_outside_the_run_are_refused():
    mixture = Mixture(MATH_MIX, seed=0, steps=3, phases=one_phase(4))
    for step, slot in ((-1, 0), (3, 0), (0, 4), (0, -1)):
        with pytest.raises(IndexError):
            mixture.assign(step, [slot])

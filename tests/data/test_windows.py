"""The order of a source's windows over phases: no token twice in an epoch, nothing left out but what cannot be read."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from athanor.data.permutation import hash64, name_key, permute
from athanor.data.phases import Phase
from athanor.data.windows import WindowOrder


@st.composite
def orders(draw):
    """Up to four phases of a source of some windows, each of some rows: several epochs, or a part of one."""
    growth = draw(st.lists(st.integers(2, 5), max_size=3))
    longest = int(np.prod(growth))
    phases = [Phase(i, length, longest // length) for i, length in enumerate(np.cumprod([1, *growth]).tolist())]
    count = draw(st.integers(1, 30))
    rows_P = [draw(st.integers(0, 3 * count * longest // phase.seq_len_tokens)) for phase in phases]
    order = WindowOrder(draw(st.sampled_from(["math", "code"])), draw(st.integers(0, 2**40)), count, phases, rows_P)
    return order, phases, count, rows_P


@settings(max_examples=100, deadline=None)
@given(orders())
def test_no_token_is_read_twice_in_an_epoch_and_a_change_over_leaves_less_than_a_window(drawn):
    order, phases, count, rows_P = drawn
    longest = phases[-1].seq_len_tokens
    reads: dict[int, np.ndarray] = {}  # per epoch how often each token of each longest window is read
    for p, (phase, rows) in enumerate(zip(phases, rows_P, strict=True)):
        for epoch, window in zip(*(found.tolist() for found in order.place(p, np.arange(rows))), strict=True):
            tokens = reads.setdefault(epoch, np.zeros((count, longest), dtype=int)).reshape(-1)
            tokens[window * phase.seq_len_tokens : (window + 1) * phase.seq_len_tokens] += 1
    assert sorted(reads) == list(range(len(reads)))
    assert all(tokens.max() == 1 for tokens in reads.values())
    taken = [tokens if epoch + 1 in reads else tokens[tokens.any(axis=1)] for epoch, tokens in reads.items()]
    unread = sum(int((tokens == 0).sum()) for tokens in taken)
    assert unread <= sum(longest - phase.seq_len_tokens for phase in phases)


@settings(max_examples=50, deadline=None)
@given(orders(), st.data())
def test_a_samples_place_does_not_depend_on_what_it_is_asked_with(drawn, data):
    order, _, _, rows_P = drawn
    phase = data.draw(st.integers(0, len(rows_P) - 1))
    some = data.draw(st.lists(st.integers(0, max(0, rows_P[phase] - 1)), max_size=5)) if rows_P[phase] else []
    epoch_N, window_N = order.place(phase, np.arange(rows_P[phase]))
    for ordinal in some:
        epoch, window = order.place(phase, np.array([ordinal]))
        assert (epoch[0], window[0]) == (epoch_N[ordinal], window_N[ordinal])


def test_one_phase_reads_the_permutation_of_its_windows_and_no_other():
    order = WindowOrder("math", 3, 50, [Phase(0, 8, 1)], [120])
    epoch_N, window_N = order.place(0, np.arange(120))
    assert epoch_N.tolist() == [n // 50 for n in range(120)]
    for epoch in range(3):
        mine = np.arange(50 if epoch < 2 else 20)
        key = hash64(3, name_key("windows of an epoch"), name_key("math"), epoch)
        assert (window_N[epoch_N == epoch] == permute(mine, 50, key)).all()


def test_the_parts_of_a_window_are_spread_over_the_phase():
    phases = [Phase(0, 1, 4), Phase(10, 4, 1)]
    order = WindowOrder("math", 0, 1000, phases, [2000, 10])
    _, part_N = order.place(0, np.arange(2000))
    neighbours = (part_N[1:] // 4 == part_N[:-1] // 4).mean()
    assert neighbours < 0.01
    assert abs(np.corrcoef(part_N[:-1], part_N[1:])[0, 1]) < 0.1

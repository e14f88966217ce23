"""Which documents are held out: by hash, until the bytes asked for are reached, and never much more."""

from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from athanor.data.hash_order import LARGEST_SHARE, HashOrder


@pytest.fixture
def choose(tmp_path):
    """Function (texts, fraction) -> (the choice, the texts held out)."""

    def choose(texts, fraction):
        with HashOrder(tmp_path) as order:
            for text in texts:
                order.add(text.encode())
            choice = order.choose(fraction)
        return choice, [texts[n] for n in choice.held_out]

    return choose


def lengthened(seed, count, longest):
    """Different texts of uneven lengths."""
    rng = Random(seed)
    return [f"{seed}/{n} " + "x" * int(longest * rng.random() ** 4) for n in range(count)]


def test_the_order_of_the_documents_decides_nothing(choose):
    texts = lengthened(0, 500, 400)
    _, held_out = choose(texts, 0.1)
    _, reordered = choose(Random(1).sample(texts, len(texts)), 0.1)
    assert set(held_out) == set(reordered) and len(held_out) > 20


def test_a_larger_share_only_adds(choose):
    texts = [f"document {n}" for n in range(500)]
    assert set(choose(texts, 0.05)[1]) < set(choose(texts, 0.2)[1])


def test_new_text_moves_only_documents_next_to_where_the_taking_ends(choose):
    before = [f"document {n}" for n in range(5000)]
    _, old = choose(before, 0.1)
    _, new = choose([*before, *(f"another {n}" for n in range(5000))], 0.1)
    moved = set(old) ^ {text for text in new if text.startswith("document")}
    assert len(old) > 450 and len(moved) < 60


def test_one_huge_document_is_not_held_out_for_a_small_share(choose):
    small = [f"document {n}" for n in range(1000)]
    for n in range(30):  # wherever in the order its hash puts it
        choice, held_out = choose([*small, f"{n} " + "x" * 20_000], 0.02)
        assert choice.asked_bytes <= sum(map(len, held_out)) < choice.asked_bytes + 20


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10_000), count=st.integers(1, 60), fraction=st.floats(0.001, 0.49))
def test_less_than_twice_what_is_asked_is_held_out_or_a_quarter_and_something_is_trained_on(
    tmp_path_factory, seed, count, fraction
):
    texts = lengthened(seed, count, 3000)
    total_bytes = sum(map(len, texts))
    with HashOrder(tmp_path_factory.getbasetemp()) as order:
        for text in texts:
            order.add(text.encode())
        choice = order.choose(fraction)
    held_out_bytes = sum(len(texts[n]) for n in choice.held_out)
    assert held_out_bytes < max(2 * choice.asked_bytes, LARGEST_SHARE * total_bytes + 1)
    assert len(choice.held_out) < count
    assert choice.held_out == sorted(set(choice.held_out))


def test_where_all_documents_are_long_the_shortest_is_held_out_up_to_a_quarter(choose):
    long = [f"{n}" * (1000 + n) for n in range(1, 10)]
    assert choose(long, 0.02)[1] == [long[0]]
    assert choose([*long, "a few bytes"], 0.02)[1] == [long[0], "a few bytes"]
    assert choose(long[:3], 0.02)[1] == []


def test_a_share_of_nothing_holds_nothing_out(choose):
    assert choose(["one", "two", "two"], 0.0)[0].held_out == []
    assert choose([], 0.1)[0].duplicate_documents == 0


def test_copies_count_once_towards_the_bytes(choose):
    texts = [f"document {n % 200:03}" for n in range(1000)]
    choice, held_out = choose(texts, 0.1)
    assert len(held_out) == len(set(held_out)) == 20
    assert choice.duplicate_documents == 800 and choice.duplicate_bytes == 800 * 12
    assert sorted(texts[n] for n in choice.copies) == sorted(held_out * 4)
    assert choice.asked_bytes == 20 * 12

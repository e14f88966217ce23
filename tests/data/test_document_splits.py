"""What is held out: whole documents by hash, as many bytes as asked for, each text once."""

from __future__ import annotations

import random
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from athanor.data import document_splits
from athanor.data.document_splits import DocumentSplits, cut
from athanor.data.sources.records import Raw


def split(texts, fraction, whole_files=False, splits=None):
    """The texts of each split in the order they were written, and the object that split them."""
    written = {"train": [], "held_out": []}
    with tempfile.TemporaryDirectory() as folder:
        made = DocumentSplits(fraction, lambda split, text, ref: written[split].append(text), Path(folder))
        for number, text in enumerate(texts):
            content = text if whole_files else {"text": text}
            made.add(Raw(content, "rows.jsonl", number, split=splits[number] if splits else None), text)
        made.finish()
    return written["train"], written["held_out"], made


def uneven(count, seed=0):
    """Different texts whose lengths are log-normal."""
    draw = random.Random(seed)
    return [f"{n} " + "x" * int(200 * draw.lognormvariate(0, 1)) for n in range(count)]


@pytest.mark.parametrize("fraction", [0.02, 0.1, 0.4])
@pytest.mark.parametrize("count", [60, 119, 2000])
def test_the_bytes_held_out_are_those_asked_for(count, fraction):
    texts = uneven(count)
    train, held_out, made = split(texts, fraction)
    asked_bytes = fraction * sum(map(len, texts))
    assert asked_bytes <= sum(map(len, held_out)) <= 2 * asked_bytes
    assert made.bytes == {"train": sum(map(len, train)), "held_out": sum(map(len, held_out))}
    assert sorted(train + held_out) == sorted(texts)
    assert [t for t in texts if t in set(held_out)] == held_out, "each split keeps the order of the source"


def test_a_document_that_would_take_far_more_than_asked_is_passed_over():
    texts = [*uneven(100), "huge " + "y" * 10**6]
    for seed in range(20):
        _, held_out, _ = split([f"{seed} {text}" for text in texts], 0.01)
        assert sum(map(len, held_out)) <= 2 * 0.01 * sum(len(f"{seed} {text}") for text in texts)


def test_more_text_moves_next_to_nothing_between_the_splits():
    texts = uneven(1000)
    _, before, _ = split(texts, 0.1)
    _, after, _ = split([*reversed(texts), *uneven(100, seed=1)], 0.1)
    moved = set(before) - set(after) | (set(after) - set(before)) & set(texts)
    assert len(moved) <= 0.05 * len(before)
    assert set(split(texts, 0.05)[1]) < set(split(texts, 0.2)[1])


def test_equal_texts_are_on_one_side_and_held_out_once():
    texts = uneven(300)
    twice = [text for text in texts for _ in range(2)]
    train, held_out, made = split(twice, 0.1)
    assert len(held_out) == len(set(held_out)) == made.held_out_copies
    assert not set(held_out) & set(train)
    assert len(train) == 2 * len(set(train)), "what is trained on keeps its copies"
    assert sum(map(len, held_out)) >= 0.1 * sum(map(len, twice))


def test_a_source_that_does_not_fit_memory_is_split_as_one_that_does(monkeypatch):
    texts = [*uneven(2000), *uneven(100)]
    expected = split(texts, 0.1)[:2]
    monkeypatch.setattr(document_splits, "SPOOL_BYTES", 1000)
    monkeypatch.setattr("athanor.data.hash_order._PART_BYTES", 100)
    assert split(texts, 0.1)[:2] == expected


def test_all_copies_are_counted():
    texts = uneven(100)
    _, _, made = split([*texts, *texts[:10], texts[0]], 0.1)
    assert made.duplicates == 11 and made.duplicate_bytes == sum(map(len, [*texts[:10], texts[0]]))


def test_a_few_short_texts_are_not_all_that_is_held_out_of_long_ones():
    long = [f"{n} " + "x" * (20_000 + 10 * n) for n in range(20)]
    _, held_out, _ = split(["a short one", *long], 0.02)
    assert held_out == ["a short one", long[0]]


def test_a_short_file_among_books_is_not_all_that_is_held_out():
    books = ["\n\n".join(f"{name} {n} text" for n in range(500)) for name in "abcdef"]
    train, held_out, made = split(["a short one", *books], 0.02, whole_files=True)
    assert made.divided is not None and held_out[0] == "a short one" and len(held_out) == 2
    assert len(held_out[1]) == pytest.approx(0.02 * sum(map(len, books)), rel=0.2) and len(train) == 6


@pytest.mark.parametrize("count", [2, 3, 10])
def test_of_a_few_records_the_shortest_is_held_out_whole(count):
    texts = [f"row {n}" + "\n\nmore" * (count - n) for n in range(count)]
    train, held_out, _ = split(texts, 1e-9)
    assert held_out == [texts[-1]] and len(train) == count - 1


def test_training_is_never_left_empty():
    train, held_out, _ = split([f"row {n}" for n in range(4)], 0.49)
    assert train and held_out
    assert split(["a"], 0.49)[:2] == (["a"], [])
    assert split(["only one\n\nof its kind"] * 3, 0.4)[:2] == (["only one\n\nof its kind"] * 3, [])


def test_many_copies_do_not_hold_out_every_text():
    train, held_out, _ = split([*["a" * 10] * 50, "b" * 10], 0.49)
    assert len(held_out) == 1 and set(train) == {"a" * 10, "b" * 10} - set(held_out)


def test_one_book_holds_out_its_last_paragraphs_and_says_so():
    book = "\n\n".join(f"Paragraph {n}. " + "words " * 20 for n in range(200))
    (train,), (held_out,), made = split([book], 0.05, whole_files=True)
    assert train + held_out == book and made.divided == "rows.jsonl:0"
    assert held_out.startswith("Paragraph 190.") and 0.04 < len(held_out) / len(book) < 0.06


def test_a_few_books_lose_only_the_end_of_one():
    books = ["\n\n".join(f"{name} {n} text" for n in range(500)) for name in "abc"]
    train, (held_out,), _ = split(books, 1e-2, whole_files=True)
    assert len(train) == 3 and sum(book in train for book in books) == 2
    assert len(held_out) == pytest.approx(0.01 * sum(map(len, books)), rel=0.2)


def test_a_book_is_not_divided_where_a_copy_of_it_is_trained_on():
    book = "\n\n".join(f"Paragraph {n}. " + "words " * 20 for n in range(200))
    assert split([book] * 2, 0.05, whole_files=True)[:2] == ([book] * 2, [])


def test_many_small_files_are_held_out_whole():
    files = uneven(119)
    _, held_out, made = split(files, 0.02, whole_files=True)
    assert made.divided is None and set(held_out) <= set(files)
    assert sum(map(len, held_out)) >= 0.02 * sum(map(len, files))


def test_a_single_record_is_kept_for_training():
    assert split(["the only one\n\nof its kind"], 0.4)[:2] == (["the only one\n\nof its kind"], [])


def test_a_split_the_source_has_fixed_is_never_changed():
    texts = [f"text {n}\n\nmore" for n in range(3)]
    assert split(texts, 0.4, splits=["train"] * 3)[:2] == (texts, [])
    assert split(texts, 0.4, splits=["held_out"] * 3)[:2] == ([], texts)


def test_share_zero_holds_nothing_out():
    assert split(["one\n\ntwo\n\nthree"], 0.0, whole_files=True)[:2] == (["one\n\ntwo\n\nthree"], [])


@settings(deadline=None)
@given(st.text(alphabet="ab \n", max_size=300), st.floats(0.001, 0.499))
def test_a_cut_loses_nothing_and_leaves_text_on_both_sides(text, fraction):
    pieces = cut(text, fraction)
    if pieces is None:
        return
    head, tail = pieces
    assert head + tail == text
    assert head.strip() and tail.strip() and len(tail) <= len(text) / 2
    assert head[-1] in " \n"

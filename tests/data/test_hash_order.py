"""Documents by the hash of their text: each text once, with its copies, in an order that nothing else decides."""

from random import Random

import pytest

from athanor.data.hash_order import HashOrder


@pytest.fixture
def order(tmp_path):
    """Function: texts -> (text, ordinals of its further copies) in the order of the hashes; their sizes are checked."""

    def order(texts):
        found = HashOrder(tmp_path)
        for text in texts:
            found.add(text.encode())
        assert (found.documents, found.text_bytes) == (len(texts), sum(map(len, texts)))
        listed = list(found)
        assert listed == list(found), "it can be gone through again"
        assert [one.text_bytes for one in listed] == [len(texts[one.ordinal]) for one in listed]
        found.close()
        return [(texts[one.ordinal], one.copies) for one in listed]

    return order


TEXTS = [f"document {n}" for n in range(500)]


def test_every_text_is_there_once_with_the_ordinals_of_its_copies(order):
    found = order([*TEXTS, *TEXTS[100:300], *TEXTS[:1]])
    assert sorted(text for text, _ in found) == sorted(TEXTS)
    copies = dict(found)
    assert copies["document 0"] == [700] and copies["document 100"] == [500] and copies["document 400"] == []


def test_the_first_document_with_a_text_stands_for_it(tmp_path):
    found = HashOrder(tmp_path)
    for _ in range(3):
        found.add(b"one")
    (one,) = found
    assert (one.ordinal, one.copies) == (0, [1, 2])


def test_neither_the_order_of_the_source_nor_other_documents_change_it(order):
    expected = [text for text, _ in order(TEXTS)]
    assert [text for text, _ in order(Random(0).sample(TEXTS, len(TEXTS)))] == expected
    assert [text for text, _ in order([*(f"another {n}" for n in range(99)), *TEXTS]) if "doc" in text] == expected
    assert expected != TEXTS


def test_no_documents_are_an_empty_order(order):
    assert order([]) == []

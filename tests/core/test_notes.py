"""What was asked once is remembered, by whoever asked first; a home that cannot be written to remembers nothing."""

from athanor.core.notes import Notes

NOTES, QUESTION = Notes("notes.jsonl"), {"of": "what"}


def test_the_first_answer_counts_for_equal_questions_alone():
    assert NOTES.answer(QUESTION) is None
    NOTES.note(QUESTION, ["a"])
    NOTES.note(QUESTION, ["b"])
    assert NOTES.answer(dict(QUESTION)) == ["a"] and NOTES.answer({"of": "else"}) is None
    assert len(NOTES.path.read_text(encoding="utf-8").splitlines()) == 1


def test_torn_and_senseless_lines_are_passed_over():
    NOTES.path.parent.mkdir(parents=True)
    NOTES.path.write_text('{"question": {"of": "wh\n[1]\n{"question": 3}\n', encoding="utf-8")
    NOTES.note(QUESTION, "a")
    assert NOTES.answer(QUESTION) == "a"


def test_notes_that_cannot_be_read_or_written_remember_nothing():
    NOTES.path.mkdir(parents=True)
    NOTES.note(QUESTION, "a")
    assert NOTES.answer(QUESTION) is None

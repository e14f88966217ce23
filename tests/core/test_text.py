"""Foreign text made printable."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from athanor.core.text import clean, one_line


@given(st.text(st.characters()))
def test_clean_text_encodes_and_holds_no_control(text):
    printable = clean(text)
    printable.encode("utf-8")
    assert not any((ord(c) < 0x20 and c not in "\n\t") or 0x7F <= ord(c) < 0xA0 for c in printable)
    assert clean(printable) == printable
    assert len(one_line(text, 12)) <= 12


def test_ordinary_text_of_any_script_is_untouched():
    text = "naïve 数学 مرحبا 🙂\n\tx² ≠ y"
    assert clean(text) == text
    assert clean("a\x00\u202eb\ud800") == "a␀\ufffdb\ufffd"

"""Templates: a record becomes one text, or says why not."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from athanor.core.errors import UserError
from athanor.data.sources.records import BadRecord, Template


@pytest.mark.parametrize("pattern", ["", "{", "{}", "{q!r}", "{q:>9}", "no field {{}}", "{q}}"])
def test_a_template_that_cannot_be_read_is_a_one_line_error(pattern):
    with pytest.raises(UserError, match="template") as caught:
        Template(pattern)
    assert "\n" not in str(caught.value)


@settings(deadline=None)
@given(st.dictionaries(st.sampled_from(["q", "a"]), st.one_of(st.text(), st.integers(), st.none(), st.booleans())))
def test_a_template_renders_text_and_numbers_or_says_why_not(record):
    def usable(value):
        return isinstance(value, str | int) and not isinstance(value, bool)

    try:
        assert Template("{q}/{a}").render(record) == f"{record['q']}/{record['a']}"
        assert usable(record["q"]) and usable(record["a"])
    except BadRecord:
        assert not all(name in record and usable(record[name]) for name in ("q", "a"))

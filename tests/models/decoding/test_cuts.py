"""What was cut of prompts, in words."""

from __future__ import annotations

import pytest

from athanor.core.errors import UserError
from athanor.models.decoding.cuts import Cuts, cuts_text


def test_what_was_cut_is_said_with_its_share():
    cuts = Cuts()
    cuts.note(100, 0)
    cuts.note(100, 50)
    assert str(cuts) == "1 of 2 prompts lost their beginning (25.0\u00a0% of all tokens)"
    cuts.short_answers = 1
    assert cuts_text(cuts.facts()).endswith("; 1 of 2 answers had less room than asked for")
    assert cuts_text(Cuts(prompts=3).facts()) == "all 3 prompts were read whole"


def test_more_than_may_be_cut_is_refused():
    cuts = Cuts(max_fraction=0.5)
    cuts.note(100, 50)
    with pytest.raises(UserError, match="1 of 1 prompts"):
        cuts.judge(64)
    cuts.note(100, 0)
    cuts.judge(64)

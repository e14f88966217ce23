"""The parent waits for a stop as long as the run itself said that one may take."""

from __future__ import annotations

from athanor.core.run_files import STOPPING
from athanor.tasks.trainer.process.grace import LEAST_GRACE_S, MARGIN, Grace, grace_s


def test_slow_slices_and_slow_checkpoints_are_waited_for(tmp_path):
    grace = Grace(tmp_path)
    grace.measured(slice_s=0.1, save_s=0.1)
    assert not (tmp_path / STOPPING).exists() and grace_s(tmp_path) == LEAST_GRACE_S
    grace.measured(slice_s=40.0, save_s=20.0)
    assert grace_s(tmp_path) == LEAST_GRACE_S + MARGIN * 60.0


def test_what_cannot_be_read_is_the_least(tmp_path):
    for text in ("", "{}", '{"grace_s": null}', '{"grace_s": 1}', "[1]"):
        (tmp_path / STOPPING).write_text(text, encoding="utf-8")
        assert grace_s(tmp_path) == LEAST_GRACE_S

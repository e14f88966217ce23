"""A report works out each series, mix and table of scores once, however often it is shown."""

from __future__ import annotations

from collections import Counter

from athanor.reports import figures, findings, log
from athanor.reports.card import write_report


def test_nothing_is_worked_out_twice(run, tmp_path, monkeypatch):
    calls = Counter()

    def counted(module, name):
        function = getattr(module, name)
        monkeypatch.setattr(module, name, lambda *given: calls.update([name]) or function(*given))

    for module, name in ((log, "scheduled_weights"), (log, "_latest"), (findings, "scores_of")):
        counted(module, name)
    for module in (log, figures):
        counted(module, "smoothed")
    write_report(run, tmp_path)
    two_runs = 2
    assert calls == {
        "scheduled_weights": 1,
        "scores_of": 1,
        "_latest": two_runs * 2,  # steps and evaluations
        "smoothed": two_runs * 3,  # loss, gradient norm, tokens per second
    }

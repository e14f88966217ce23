"""What stands at the top of a report."""

from __future__ import annotations

from dataclasses import replace

from athanor.reports.findings import Findings
from athanor.reports.headlines import headlines


def test_a_run_cut_by_its_budget_says_so_at_the_top(run):
    def notes(stages) -> str:
        return " ".join(headline.note for headline in headlines(Findings.of(replace(run, stages=stages))))

    assert "cut" not in notes(run.stages)
    cut = [replace(s, facts={**s.facts, "cuts": [{"at_step": 500, "end": 600}]}) for s in run.stages]
    assert "600 steps of 600: cut to stay within the budget" in notes(cut)

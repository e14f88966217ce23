"""At its end a run says what it scored, what was built at what cost, where the report is, and what to do next."""

from __future__ import annotations

import io
import json

import pytest
from rich.console import Console

from athanor.core.store import Store
from athanor.flows.cli.ending import print_ending
from athanor.flows.plan.survey import Survey

SCORE = {"value": 0.05, "ci_low": 0.009, "ci_high": 0.236, "n": 20, "higher_is_better": True, "chance": None}


@pytest.fixture
def ended(small_preset, publish):
    """A whole lifecycle in the store; what is said of it when these titles were built."""
    preset = small_preset()
    for found in Survey(preset).needed_by("lifecycle"):
        files = {"file": "content"}
        if found.stage == "evaluate":
            recipe = found.wanted.recipe.model_dump()
            result = {"label": recipe["label"], "model": recipe["model"], "metrics": {"exact_match": SCORE}}
            files = {"result.json": json.dumps(result)}
        publish(found, files=files, cost_usd=0.5)

    def say(part: str, *built: str) -> tuple[str, object]:
        written = io.StringIO()
        page = print_ending(Console(file=written, width=80), preset, part, built, 61.0)
        return written.getvalue(), page

    return say


def test_scores_come_with_interval_and_n_for_every_model(ended):
    text, _ = ended("lifecycle")
    score = "5.0\u00a0% (0.9–23.6\u00a0%, n = 20)"
    assert f"word-problems, exact_match\n    base {score}, SFT {score}\n" in text


def test_what_was_built_is_counted_and_paid_and_the_rest_was_cached(ended):
    text, _ = ended("lifecycle", "pretrain polychromatic", "report quickstart")
    assert "lifecycle quickstart is done in 1\u00a0min 01\u00a0s: 2 built, $1.00, 20 cached" in text


def test_the_report_is_named_and_returned_and_commands_to_go_on_with_name_the_last_model(ended):
    text, page = ended("lifecycle")
    (report,) = (a for a in Store().artifacts() if a.stage == "report")
    assert page == report.path / "report.html"
    assert "report.html" in text and "athanor generate sft/polychromatic-" in text and "athanor runs show sft/" in text


def test_a_part_without_report_scores_or_model_says_only_what_it_did(ended):
    text, page = ended("data")
    assert page is None and text.splitlines() == ["data quickstart is done in 1\u00a0min 01\u00a0s: 0 built, 7 cached"]


def test_a_base_model_is_not_asked_to_chat(ended):
    text, _ = ended("pretrain")
    assert "athanor generate pretrain/polychromatic-" in text and "--chat" not in text

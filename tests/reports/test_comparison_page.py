"""The page of compared runs: what sets them apart, verdicts on the same items alone, and what does not compare."""

from __future__ import annotations

import re
from html import unescape

import pytest
from compared_runs import compared_run, scored

from athanor.reports.compared import cautions, lettered_scores, recipe_differences
from athanor.reports.comparison_page import comparison_page
from athanor.reports.curves import Curve, HeldOut

A_LOT, A_HANDFUL = (0.25, 0.2, 0.3, 40, True, 0.0), (0.5, None, None, 6, True, 0.0)


def section(html: str, name: str) -> str:
    """The texts of a section, a blank between two."""
    found = re.search(rf'<section id="{name}".*?</section>', html, re.DOTALL)
    return " ".join(unescape(re.sub(r"<svg.*?</svg>|<[^>]*>", " ", found[0], flags=re.DOTALL)).split()) if found else ""


@pytest.fixture
def page():
    """The page of two runs, which differ in these fields."""
    return lambda **fields: comparison_page([compared_run("one"), compared_run("other", **fields)], 0.99)


def test_every_field_that_differs_is_listed_with_both_values_and_no_other():
    recipe = {"model": {"family": "polychromatic", "d_model": 64}, "pretrain": {"peak_lr": 3e-3, "eval_tokens": 4096}}
    runs = [compared_run("one"), compared_run("other", recipe=recipe)]
    assert recipe_differences(runs) == [
        ("model.family", ["vanilla", "polychromatic"]),
        ("pretrain.peak_lr", ["0.001", "0.003"]),
    ]
    said = section(comparison_page(runs, 0.99), "differences")
    assert "model.family vanilla polychromatic" in said and "d_model" not in said
    assert "the same in every field" in section(comparison_page([runs[0]] * 2, 0.99), "differences")


def test_what_is_not_known_of_a_deleted_run_is_no_difference():
    deleted = compared_run("gone", state="deleted", recipe={"model": {"family": "hydra"}})
    assert recipe_differences([compared_run("one"), deleted]) == [("model.family", ["vanilla", "hydra"])]
    assert any(said.startswith("B is deleted") for said in cautions([compared_run("one"), deleted]))


def test_every_run_has_its_letter_and_its_colour_in_summary_tables_and_figures(compared_html):
    for series, letter in enumerate("ABC"):
        mark = f'<span class="series s{series}">{letter}</span>'
        parts = re.split(r"<section ", compared_html)
        named = [part.partition('"')[2].partition('"')[0] for part in parts if mark in part]
        assert named[1:] == ["differences", "curves", "figures", "benchmarks"] and mark in parts[0]
        assert f".s{series} {{ --colour: var(--s{series}); }}" in compared_html
    for name in ("A  pretrain/polychromatic", "B  pretrain/vanilla"):
        assert name in compared_html.replace("A pretrain", "A  pretrain").replace("B pretrain", "B  pretrain")
    assert "strong: moving average, 5 steps" in compared_html


@pytest.mark.parametrize(
    ("theirs", "verdict"),
    [
        (scored("sums", first=20, acc=(0.75, 0.6, 0.9, 40, True, 0.0)), "better than A"),
        (scored("sums", acc=A_LOT), "not told apart from A"),
        (scored("sums", items="others", acc=A_LOT), "no verdict: other items than A"),
        ({**scored("sums", acc=A_LOT), "items": {}}, "no verdict: what came of each item is not known"),
    ],
)
def test_a_verdict_is_given_on_the_same_items_alone(page, theirs, verdict):
    assert verdict in section(page(evaluations=[theirs]), "benchmarks")


def test_on_a_handful_of_items_there_is_no_verdict_but_the_reason():
    runs = [compared_run(name, evaluations=[scored("sums", acc=A_HANDFUL)]) for name in ("one", "other")]
    said = section(comparison_page(runs, 0.99), "benchmarks")
    assert "n < 8: no interval" in said and "no verdict: n < 8" in said and "not told apart from A" not in said


def test_a_benchmark_with_other_settings_is_another_one_and_says_which():
    few = [scored("sums", settings={"limit": 20}, acc=A_LOT)]
    more = [scored("sums", settings={"limit": 40}, acc=A_LOT), *few]
    runs = [compared_run("one", evaluations=few), compared_run("other", evaluations=more)]
    found = lettered_scores(runs)
    assert {task: set(by) for (task, _), by in found.items()} == {
        "sums (limit 20)": {"A", "B"},
        "sums (limit 40)": {"B"},
    }
    assert list(cautions(runs)) == ["sums (limit 40): not scored of A."]


@pytest.mark.parametrize(
    ("fields", "caution"),
    [
        ({"tokenizer_sha256": "two"}, "losses per token do not compare, bits per byte do"),
        ({"tokenizer_sha256": None}, "The tokenizer of B is not there any more"),
        ({"stage": "sft"}, "A pretraining, B fine-tuning: their losses are of other text"),
        ({"held_out_text": {"math": "acquire/math-2", "code": "acquire/code-1"}}, "math: other held-out text"),
        ({"recipe": {"pretrain": {"eval_tokens": 64}}}, "The held-out rows are not the same (eval_tokens 4096 → 64)"),
        ({"state": "stopped", "steps": 20}, "B is stopped at step 20 of 60"),
        ({"evaluations": [scored("sums", items="x", acc=A_LOT)]}, "sums: scored on other items"),
        ({"evaluations": []}, "There are no benchmark scores of B."),
        ({"made_by": {"code": "d", "torch": "3"}}, "made by is not the same: code of other versions, torch 2 → 3."),
    ],
)
def test_what_does_not_compare_is_said(page, fields, caution):
    assert caution in section(page(**fields), "caution")


def test_nothing_is_warned_of_where_all_compares(page):
    assert section(page(), "caution") == ""


def test_of_a_base_and_its_fine_tuned_model_is_said_only_what_matters():
    chat = Curve.of("sft/other", [(1, 2.0)], {"chat": HeldOut.of([(1, 1.0, 64)])})
    made = {"code": "d", "torch": "2"}
    tuned = compared_run("other", stage="sft", curve=chat, made_by=made, recipe={"sft": {"train": {"eval_tokens": 64}}})
    assert list(cautions([compared_run("one"), tuned])) == [
        "A pretraining, B fine-tuning: their losses are of other text and do not compare.",
        "chat: not measured of A.",
        "code and math: not measured of B.",
    ]


def test_other_tokenizers_are_said_beside_the_curves_of_the_losses(page):
    assert "losses per token do not compare" in section(page(tokenizer_sha256="two"), "curves")


def test_the_side_by_side_figures_are_those_of_the_runs(page):
    said = section(page(device_s=82.0, usd=None), "figures")
    for row in (
        "parameters 140 k 140 k",
        "device time 41.0 s 1 min 22 s",
        "cost $0.02 –",
        "loss, EMA 0.99, step 10 4.100",
    ):
        assert row in said
    assert "math A 1.033 60 1.033 4,096" in section(page(), "curves")


def test_foreign_text_stays_text(page, hostile_text):
    html = page(family=hostile_text, recipe={"model": {"family": hostile_text}})
    assert "<script" not in html and "<img" not in html


def test_the_same_runs_give_the_same_bytes(page):
    assert page() == page()

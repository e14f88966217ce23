"""`athanor runs` prints what the runs did, answers SQL, and fails in one line."""

from __future__ import annotations

import json
import re
import sys
from types import SimpleNamespace

import pytest

from athanor.core.store import Store
from athanor.flows.cli.main import main
from athanor.tasks.runs.schema import database_path


@pytest.fixture
def athanor(monkeypatch, capsys):
    """Runs `athanor runs` with the given arguments, in this process."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["athanor", "runs", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        found = capsys.readouterr()
        return SimpleNamespace(returncode=ended.value.code, stdout=found.out, stderr=found.err)

    return run


@pytest.fixture
def two_runs(logged_run):
    logged_run("a", [4.0 - step / 50 for step in range(1, 101)], steps=100)
    logged_run("b", [3.0] * 12, stage="sft", family="hydra")


def words(line: str) -> list[str]:
    return line.split()


def test_list_shows_every_run_with_its_state_loss_and_cost(two_runs, athanor):
    lines = athanor("list").stdout.splitlines()
    assert len(lines) == 3
    first = next(words(line) for line in lines if line.startswith("pretrain"))
    assert first[:5] == ["pretrain/vanilla-aaaaaaaaaaaa", "complete", "100/100", "2.000", "1.000"]
    assert first[-1] == "vanilla"
    assert re.search(r"sft/hydra-b+ +stopped +12/1,000 +3.000 +1.500 .* hydra *$", "\n".join(lines), re.MULTILINE)


def test_show_has_milestones_evaluations_routing_costs_events_and_a_plot(two_runs, athanor):
    out = athanor("show", "pretrain").stdout
    for heading in ("milestones", "held-out rows", "routing, auxiliary losses", "schedule", "attempts", "events"):
        assert f"\n{heading}" in out
    rows = {words(line)[0]: words(line) for line in out.splitlines() if words(line)}
    assert rows["10"][1:6] == ["2,560", "3.800", "3.888", "3.890", "3.890"]
    assert rows["ponder"][1:] == ["0.01000", "1.000", "0.01000", "1.000", "0.5050"]
    assert re.search(r"math +20 +1.950 +1.000 +1.000 +100\b", out), "held-out text: evaluations, first, last, best, at"
    assert re.search(r"math +300 +75.00\b", out), "data mix: rows, percent"
    assert "(loss)" in out and "⠢" in out and "moving average of 5 steps" in out


def test_compare_aligns_the_runs_and_draws_them_over_one_another(two_runs, athanor, tmp_path):
    png = tmp_path / "figure.png"
    out = athanor("compare", "pretrain", "sft", "--png", str(png)).stdout
    rows = {tuple(words(line)[:-2]): words(line)[-2:] for line in out.splitlines()}
    assert rows["loss,", "EMA", "0.99,", "step", "10"] == ["3.888", "3.000"]
    assert ("loss,", "EMA", "0.99,", "step", "50") not in rows, "only one run got there"
    assert rows["best", "bits/byte,", "math"] == ["1.000", "1.500"]
    assert "⠤A⠤ pretrain/vanilla-a" in out and "⠤B⠤ sft/hydra-b" in out
    assert png.read_bytes().startswith(b"\x89PNG")


def test_compare_writes_a_page_and_says_what_does_not_compare(two_runs, athanor, tmp_path):
    page = tmp_path / "compared.html"
    out = athanor("compare", "pretrain", "sft", "--html", str(page)).stdout
    assert f"wrote {page}" in out
    html = page.read_text(encoding="utf-8")
    for said in ("A pretraining, B fine-tuning: their losses are of other text", "B is stopped at step 12 of 1,000"):
        assert said in out and said in html
    assert "model.family" in html and "hydra" in html and "http" not in html.replace("http-equiv", "")


def test_query_prints_a_table_or_exact_json(two_runs, athanor):
    sql = "select run, step, loss from steps where step in (1, 2) and run like 'a%'"
    assert athanor("query", sql).stdout.split() == [
        "run",
        "step",
        "loss",
        "a" * 12,
        "1",
        "3.980",
        "a" * 12,
        "2",
        "3.960",
    ]
    rows = [json.loads(line) for line in athanor("query", sql, "--json").stdout.splitlines()]
    assert rows == [{"run": "a" * 12, "step": 1, "loss": 3.98}, {"run": "a" * 12, "step": 2, "loss": 3.96}]


def test_rebuild_says_what_it_found(two_runs, athanor):
    out = athanor("rebuild").stdout
    assert out == f"rebuilt {database_path()}: 2 runs, 112 steps, 22 held_out, 0 benchmarks\n"


def test_a_damaged_database_says_how_to_mend_it(two_runs, athanor):
    database_path().write_bytes(b"no database" * 1000)
    done = athanor("list")
    assert done.returncode == 2
    assert all("`athanor runs rebuild`" in line for line in done.stderr.splitlines())
    athanor("rebuild")
    assert len(athanor("list").stdout.splitlines()) == 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["show", "vanila"], "no run 'vanila': there is pretrain/vanilla-aaaaaaaaaaaa"),
        (["compare", "pretrain", "pretrain"], "compare needs two runs or more"),
        (["show", "sft", "--png", "/nowhere/x.png"], "--png /nowhere/x.png: No such file"),
        (["compare", "pretrain", "sft", "--html", "/nowhere/x.html"], "--html /nowhere/x.html: No such file"),
        (["query", "select nope"], "no such column: nope; tables and columns: athanor runs query"),
        (["query", "delete from runs"], "only SELECT is allowed"),
        (["query", ""], "give one SELECT"),
    ],
)
def test_a_mistake_is_one_line_on_stderr_and_status_2(two_runs, athanor, arguments, message):
    done = athanor(*arguments)
    assert done.returncode == 2
    assert message in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_an_empty_home_says_what_to_do(athanor):
    done = athanor("list")
    assert done.returncode == 2
    assert "try `athanor run quickstart`" in done.stderr
    assert not Store().root.exists()


def test_help_teaches(athanor):
    assert "select run, step, loss from steps" in " ".join(athanor("query", "--help").stdout.split())

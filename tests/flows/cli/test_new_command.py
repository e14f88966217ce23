"""`athanor new` writes a preset beside one, once, and what it writes is planned as it stands."""

from __future__ import annotations

import json

import pytest

from athanor.flows.fitting import fit
from athanor.flows.plan import estimate
from athanor.flows.plan.training_rate import Rate


@pytest.fixture
def notes(tmp_path, monkeypatch):
    """A folder with notes and conversations, which is also where commands run; no batch is timed."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "notes").mkdir()
    for number in range(40):
        text = "".join(
            f"On day {day} of {number} I went to the market and bought {day * 7} apples.\n" for day in range(80)
        )
        (tmp_path / "notes" / f"{number}.md").write_text(text)
    turns = ({"question": f"How many are {n} and {n + 1}?", "answer": f"They are {2 * n + 1}."} for n in range(4000))
    (tmp_path / "chats.jsonl").write_text("".join(json.dumps(turn) + "\n" for turn in turns))
    for module in (fit, estimate):
        monkeypatch.setattr(module, "training_rate", lambda *asked: Rate(3e10, "timed here"))
    return tmp_path


def test_a_preset_is_written_with_its_reasons_and_its_plan_is_shown(notes, athanor):
    done = athanor("new", "diary", "--from", "notes", "--chat", "chats.jsonl", "--minutes", "5")
    assert done.returncode == 0, done.stderr
    assert "pretrain/polychromatic" in done.stdout and "sft/polychromatic" in done.stdout
    assert done.stdout.endswith("wrote diary.yaml; next: athanor run diary.yaml\n")
    text = (notes / "diary.yaml").read_text()
    assert "notes: {path: notes, held_out_fraction" in text
    assert "source: {path: chats.jsonl, user: '{question}', assistant: '{answer}'" in text
    assert "parameters: the " in text
    planned = athanor("plan", "diary.yaml", "--json")
    assert planned.returncode == 0
    plan = json.loads(planned.stdout)
    assert [check for check in plan["checks"] if check["level"] != "ok"] == []
    assert plan["total"]["wall_s"] <= 300 and plan["total"]["unknown"] == []


def test_several_files_follow_from(notes, athanor):
    assert athanor("new", "two", "--from", "notes", "chats.jsonl", "--family", "vanilla").returncode == 0
    assert "start: {notes: " in (notes / "two.yaml").read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["new", "there", "--from", "notes"], "there.yaml is there already; take another name, or remove it"),
        (["new", "x"], "--from is missing: name files or folders with text"),
        (["new", "x", "--from", "gone"], "gone: no such file or folder"),
        (["new", "x", "--from", "notes", "--family", "hidra"], "hydra"),
        (["new", "X y", "--from", "notes"], "a preset's name"),
        (["new", "x", "--from", "notes", "--minutes", "0.3"], "the stages beside training take about"),
    ],
)
def test_a_mistake_is_one_line_and_nothing_is_written(notes, athanor, arguments, message):
    (notes / "there.yaml").write_text("mine")
    done = athanor(*arguments)
    assert done.returncode == 2
    assert message in done.stderr and len(done.stderr.splitlines()) == 1
    assert [file.read_text() for file in notes.glob("*.yaml")] == ["mine"]

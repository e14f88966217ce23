"""What lm-eval defines is searched once for each version, and what was found is used while it is that version's."""

from __future__ import annotations

import json

import pytest

from athanor.tasks.benchmarks import index


@pytest.fixture
def definitions(tmp_path, monkeypatch):
    """`definitions()` over a small folder of tasks; every call begins anew, as a process does."""
    folder = tmp_path / "tasks" / "sums"
    folder.mkdir(parents=True)
    (folder / "sums.yaml").write_text("task: sums\ntag:\n  - easy\n")
    (folder / "_all.yaml").write_text("group: all_sums\ntask:\n  - sums\n")
    monkeypatch.setattr(index, "lm_eval_tasks", lambda: tmp_path / "tasks")

    def fresh():
        index.definitions.cache_clear()
        return index.definitions()

    yield fresh
    index.definitions.cache_clear()


def test_tasks_groups_and_tags_are_found(definitions):
    found = {name: [(one.file.name, one.kind) for one in defined] for name, defined in definitions().items()}
    assert found == {
        "all_sums": [("_all.yaml", "group")],
        "sums": [("sums.yaml", "task")],
        "easy": [("sums.yaml", "tag")],
    }


def test_they_are_searched_once_for_a_version(definitions, monkeypatch):
    first = definitions()
    searched = []
    monkeypatch.setattr(index, "_search", lambda root: searched.append(root) or iter(()))
    assert definitions() == first and not searched
    monkeypatch.setattr(index, "version", lambda package: "99")
    assert definitions() == {} and searched


@pytest.mark.parametrize("content", ["", "[]", json.dumps({"folder": "elsewhere", "definitions": []})])
def test_a_file_that_is_not_of_this_installation_is_made_anew(definitions, private_home, content):
    first = definitions()
    (remembered,) = private_home.glob("lm-eval-*.json")
    remembered.write_text(content)
    assert definitions() == first
    assert json.loads(remembered.read_text())["definitions"]

"""A benchmark may be a task file of the user's own, and whatever it says is in the key of its scores."""

from __future__ import annotations

import json

import pytest

from athanor.core.errors import UserError
from athanor.tasks.benchmarks import catalogue
from athanor.tasks.benchmarks.task_recipe import EvalTaskRecipe
from athanor.tasks.evaluate import EvalStageRecipe

BASE = """
dataset_path: json
test_split: test
output_type: generate_until
doc_to_text: !function prompts.ask
doc_to_target: "{{value}}"
generation_kwargs: {until: ["\\n"], max_gen_toks: 8}
metric_list: [{metric: exact_match, aggregation: mean, higher_is_better: true}]
"""


@pytest.fixture
def own(tmp_path):
    """A task file that includes another, calls a function, and reads a file of data; returns its path."""
    (tmp_path / "base").write_text(BASE)
    (tmp_path / "prompts.py").write_text("def ask(row):\n    return row['question'] + '?'\n")
    (tmp_path / "rows.jsonl").write_text(json.dumps({"question": "1 + 1", "value": "2"}) + "\n")
    rows = f"dataset_kwargs: {{data_files: {{test: {tmp_path}/rows.jsonl}}}}\n"
    (tmp_path / "mine.yaml").write_text(f"task: my_sums\ninclude: base\n{rows}")
    return tmp_path / "mine.yaml"


def recipe(path, **fields) -> EvalStageRecipe:
    return EvalStageRecipe.of(EvalTaskRecipe(name=str(path), **fields), "sums", "base", 0)


def test_it_is_loaded_with_what_it_includes_and_names(own, tmp_path):
    task = EvalTaskRecipe(name=str(own))
    catalogue.check(task)
    (tmp_path / "cache").mkdir()
    loaded = catalogue.load(task, None, chat=False, cache_dir=tmp_path / "cache", seed=0)
    (row,) = loaded["my_sums"].test_docs()
    assert loaded["my_sums"].doc_to_text(row) == "1 + 1?"
    assert catalogue.hub_datasets(task) == []


def test_a_file_of_rows_may_take_the_place_of_its_own(own, tmp_path):
    rows = tmp_path / "other.jsonl"
    rows.write_text(json.dumps({"question": "2 + 2", "value": "4"}) + "\n")
    task = EvalTaskRecipe(name=str(own), path=str(rows))
    catalogue.check(task)
    (tmp_path / "cache").mkdir()
    loaded = catalogue.load(task, rows, chat=False, cache_dir=tmp_path / "cache", seed=0)
    assert [row["question"] for row in loaded["my_sums"].test_docs()] == ["2 + 2"]


@pytest.mark.parametrize("changed", ["mine.yaml", "base", "prompts.py", "rows.jsonl"])
def test_whatever_it_says_is_in_the_key_and_where_it_lies_is_not(own, tmp_path, changed):
    before = recipe(own)
    assert before.asked["name"] == "my_sums"
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    for name in ("mine.yaml", "base", "prompts.py"):
        (moved / name).write_text((tmp_path / name).read_text())
    assert recipe(moved / "mine.yaml").model_dump() == before.model_dump()
    file = tmp_path / changed
    file.write_text(file.read_text() + ("\n" if changed == "rows.jsonl" else "\n# another\n"))
    assert recipe(own).model_dump() != before.model_dump()


def test_other_benchmarks_keep_their_keys():
    fields = recipe("word_problems", limit=3).model_dump(mode="json", exclude_none=True)
    assert "task_sha256" not in fields and fields["asked"] == {"name": "word_problems", "limit": 3}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no such file; correct the path, or name a task of `athanor tasks`"),
        ("[", "is no YAML"),
        ("- a", "must hold fields such as `task: NAME`"),
        ("output_type: generate_until", "has no `task: NAME`"),
        ("group: sums\ntask: [a, b]", "defines a group; give the file of one task"),
        ("task: sums\ninclude: gone.yaml", "gone.yaml: No such file"),
        ("task: sums\ninclude: mine.yaml", "mine.yaml includes itself"),
    ],
)
def test_a_mistake_is_one_line(tmp_path, content, message):
    file = tmp_path / "mine.yaml"
    if content is not None:
        file.write_text(content)
    with pytest.raises(UserError, match=message) as raised:
        catalogue.check(EvalTaskRecipe(name=str(file)))
    assert "\n" not in str(raised.value)

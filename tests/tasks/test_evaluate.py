"""What the stage says of a benchmark stands in its log and its facts."""

from __future__ import annotations

from types import SimpleNamespace

from athanor.core.runtime import Runtime
from athanor.tasks import evaluate
from athanor.tasks.benchmarks.task_recipe import EvalTaskRecipe
from athanor.tasks.evaluate import EvalStageRecipe

COMMIT = "1a" * 20


def test_a_data_set_that_was_read_at_no_fixed_commit_is_in_the_log_and_the_facts(monkeypatch, tmp_path):
    result = {"metrics": {"exact_match": {"value": 0.5}}, "unpinned_sets": {"openai/gsm8k": COMMIT}}
    monkeypatch.setattr("athanor.tasks.benchmarks.lm_eval_run.run_task", lambda *_, **__: result)
    monkeypatch.setattr("athanor.tasks.runs.follow.record_benchmark", lambda *_: None)
    recipe = EvalStageRecipe.of(EvalTaskRecipe(name="gsm8k"), "sums", "base", seed=0)
    lines = []
    run = SimpleNamespace(out=tmp_path, runtime=Runtime(), key="k", log=lines.append, progress=None)
    facts = evaluate.build(recipe, run, model=SimpleNamespace(path=tmp_path), documents={})
    assert facts == {"metrics": {"exact_match": 0.5}, "unpinned_sets": {"openai/gsm8k": COMMIT}}
    assert f"sums: read at no fixed commit: openai/gsm8k ({COMMIT}); the same key may stand for other items" in lines

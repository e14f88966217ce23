"""What is known of compared runs: their lineage's recipes, their tokenizers, the scores of their models."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from athanor.core.keys import artifact_key
from athanor.core.store import Artifact, Store
from athanor.reports.compared import cautions, recipe_differences
from athanor.tasks.runs.compare import compared
from athanor.tasks.runs.follow import catch_up
from athanor.tasks.runs.read import find_run, reading

TEXT = {"source": "math", "identity": {"sha256": "1"}}


def put(stage: str, label: str, recipe: dict, parents: dict[str, str] | None = None, **files: Any) -> Artifact:
    """An artifact in the store; a file for every name, JSON."""
    store, parents = Store(), parents or {}
    artifact = store.artifact(stage, label, artifact_key(stage, 1, recipe, parents))
    partial = store.partial(artifact, resume=False)
    for name, content in files.items():
        (partial / f"{name}.json").write_text(json.dumps(content))
    manifest = dict(code_version=1, recipe=recipe, parents=parents, code="c", versions={}, wall_s=1.0, cost_usd=0.0)
    store.publish(artifact, partial, {**manifest, "facts": {}, "created": "2026-01-01T00:00:00+00:00"})
    return artifact


def score(run: str, label: str = "sums", limit: int = 40, items: bool = True) -> Artifact:
    """An evaluation of a run's model."""
    acc = dict(value=0.5, ci_low=0.3, ci_high=0.7, n=limit, higher_is_better=True, chance=0.25)
    recipe = {"asked": {"name": "sums", "limit": limit}, "label": label, "model": "base", "seed": 0}
    result = {"label": label, "model": "base", "metrics": {"acc": acc}}
    kept = {"items": {"acc": {"sha256": str(limit), "values": [1.0, 0.0] * (limit // 2)}}} if items else {}
    return put("evaluate", f"{label}-base", recipe, {"model": run[:1] * 64}, result=result, **kept)


@pytest.fixture
def run(logged_run):
    """Leave a run of this digit that was made from an artifact of each kind."""

    def leave(digit: str, vocab_size: int = 300, text: dict = TEXT, stage: str = "pretrain", **spec: Any) -> Path:
        documents = put("acquire", "math", {"asked": {"source": text["source"]}, "identity": text["identity"]})
        tokenizer = put("tokenizer", "bpe", {"asked": {"vocab_size": vocab_size}}, tokenizer={"size": vocab_size})
        shards = put("tokenize", "math", {}, {"documents": documents.key, "tokenizer": tokenizer.key})
        folder = logged_run(digit, [3.0] * 10, stage=stage)
        known = json.loads((folder / "run.json").read_text())
        places = {"tokenizer_dir": f"/elsewhere/store/{tokenizer.name}"}
        places |= {"shard_dirs": {"math": f"/elsewhere/store/{shards.name}"}}
        (folder / "run.json").write_text(json.dumps({**known, **places, **spec}))
        return folder

    return leave


def found(*names: str):
    catch_up(Store())
    with reading() as db:
        return compared(db, [find_run(db, name * 12) for name in names])


def test_fields_of_all_that_a_run_was_made_from_are_compared_wherever_the_store_lies(run):
    run("a")
    run(
        "b",
        vocab_size=500,
        text={"source": "math", "identity": {"sha256": "2"}},
        train={"steps": 1000, "peak_lr": 3e-3},
    )
    runs = found("a", "b")
    assert dict(recipe_differences(runs)) == {
        "pretrain.peak_lr": ["–", "0.003"],
        "data.sources.math.identity.sha256": ["1", "2"],
        "tokenizer.vocab_size": ["300", "500"],
    }
    said = list(cautions(runs))
    assert "losses per token do not compare" in said[0] and "math: other held-out text" in said[1]


def test_a_tokenizer_is_known_by_its_content(run):
    run("a")
    folder = run("b", vocab_size=500)
    (folder / "tokenizer.json").write_text(json.dumps({"size": 300}))
    assert len({one.tokenizer_sha256 for one in found("a", "b")}) == 1


def test_fine_tuning_is_compared_with_the_fields_of_its_base(run, private_home):
    for digit, rate in (("a", 1e-3), ("b", 3e-3)):
        folder = run(digit, train={"steps": 1000, "peak_lr": rate})
        base = folder.rename(folder.with_name(folder.name.removeprefix(".").removesuffix(".partial")))
        run("cd"["ab".index(digit)], stage="sft", init_dir=f"/elsewhere/pretrain/{base.name}")
    assert dict(recipe_differences(found("c", "d"))) == {"pretrain.peak_lr": ["0.001", "0.003"]}


def test_every_evaluation_of_a_runs_model_is_found_with_its_items_and_no_others(run):
    run("a"), run("b")
    score("a"), score("a", limit=20, items=False), score("b")
    first, second = found("a", "b")
    assert [(one["settings"]["asked"]["limit"], len(one["items"])) for one in first.evaluations] in (
        [(20, 0), (40, 1)],
        [(40, 1), (20, 0)],
    )
    assert [one["settings"] for one in second.evaluations] == [{"asked": {"name": "sums", "limit": 40}, "seed": 0}]


def test_of_a_deleted_run_is_said_what_the_database_kept(run):
    run("a")
    folder = run("b")
    found("a", "b")
    shutil.rmtree(folder)
    runs = found("a", "b")
    assert runs[1].state == "deleted" and runs[1].curve.step_N.tolist() == list(range(1, 11))
    assert recipe_differences(runs) == []
    assert any("B is deleted" in said for said in cautions(runs))

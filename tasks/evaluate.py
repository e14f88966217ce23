"""Stage `evaluate`: one benchmark on one model, scored by lm-eval."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import Field

from athanor.core.errors import UserError
from athanor.core.keys import sha256_file
from athanor.core.recipe import Recipe
from athanor.core.store import Artifact
from athanor.tasks.benchmarks.lm_eval_run import reads_documents, run_task
from athanor.tasks.runs.follow import record_benchmark
from athanor.tasks.stage import StageRun, stage
from athanor.tasks.stage_recipes import EvalTaskRecipe, ModelName

__all__ = ["EvaluateRecipe", "evaluate", "reads_documents"]


class EvaluateRecipe(Recipe):
    """What fixes a score besides the model: the task, its local file's content, the seed."""

    task: EvalTaskRecipe = Field(exclude=True)
    asked: dict[str, Any]
    test_sha256: str | None = None
    label: str
    model: ModelName
    seed: int

    @classmethod
    def of(cls, task: EvalTaskRecipe, label: str, model: ModelName, seed: int) -> EvaluateRecipe:
        """The recipe. Raises UserError if the task's local file is missing."""
        sha256 = None
        if task.path is not None:
            if not Path(task.path).is_file():
                raise UserError(f"evaluate.tasks.{label}.path={task.path}: no such file; give a .jsonl or .parquet")
            sha256 = sha256_file(Path(task.path))
        asked = task.model_dump(mode="json", exclude={"path"}, exclude_none=True)
        return cls(task=task, asked=asked, test_sha256=sha256, label=label, model=model, seed=seed)


@stage("evaluate")
def evaluate(recipe: EvaluateRecipe, run: StageRun, *, model: Artifact, documents: dict[str, Artifact]) -> dict:
    """Write `result.json` (scores with 95 % intervals) and `samples.jsonl`."""
    result = run_task(
        recipe.task,
        label=recipe.label,
        model_dir=model.path,
        model_name=recipe.model,
        out=run.out,
        runtime=run.runtime,
        seed=recipe.seed,
        documents={name: artifact.path for name, artifact in documents.items()} or None,
        progress=run.progress,
    )
    record_benchmark(run.key, model, result, run.log)
    scores = {name: score["value"] for name, score in result["metrics"].items()}
    run.log(f"{recipe.label} ({recipe.model}): " + ", ".join(f"{name} {value:.4f}" for name, value in scores.items()))
    return {"metrics": scores}

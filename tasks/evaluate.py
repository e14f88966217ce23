"""Stage `evaluate`: one benchmark on one model, scored by lm-eval."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from athanor.core.errors import UserError
from athanor.core.keys import sha256_file
from athanor.core.recipe import Recipe
from athanor.core.store import Artifact
from athanor.data.hub_access import Repository
from athanor.data.hub_commits import commit_of
from athanor.tasks.benchmarks.local import local_names, reads_documents
from athanor.tasks.benchmarks.own import is_own, own_sha256, task_name
from athanor.tasks.benchmarks.task_recipe import EvalTaskRecipe
from athanor.tasks.cost import STARTUP_S, Cost
from athanor.tasks.external import External
from athanor.tasks.stage import Foreseen, Lifecycle, ModelName, Stage, StageRun, Wanted

if TYPE_CHECKING:
    from athanor.tasks.preset_recipe import Preset

BENCHMARK_DOCUMENTS = 1500  # of a benchmark without limit
PROMPT_TOKENS, ANSWER_TOKENS = 1000, 256  # of lm-eval's benchmarks, examples included
EXAMPLE_TOKENS = 120  # of one of its examples
LOCAL_PROMPT_TOKENS, LOCAL_ANSWER_TOKENS = 60, 64  # of those in tasks/benchmarks
LAYER_STEP_S = 1e-3  # a layer of a decoding step costs so much however small it is


class EvalRecipe(Recipe):
    """The preset's section `evaluate`: benchmarks, each scored on the base and the fine-tuned model."""

    tasks: dict[str, EvalTaskRecipe] = Field(description="Label in the report -> task")
    models: tuple[ModelName, ...] = Field(default=("base", "sft"), description="Which checkpoints are scored")
    seed: int = Field(default=0, ge=0, description="Seed of few-shot and sampled answers")


class EvalStageRecipe(Recipe):
    """What fixes a score besides the model: the task, the content of its local files, the seed."""

    task: EvalTaskRecipe = Field(exclude=True)
    asked: dict[str, Any]
    test_sha256: str | None = None
    task_sha256: str | None = Field(default=None, description="Of a task file of the user's own")
    commits: dict[str, str] | None = Field(default=None, description="Data set on the hub -> where it is read")
    label: str
    model: ModelName
    seed: int

    @classmethod
    def of(cls, task: EvalTaskRecipe, label: str, model: ModelName, seed: int) -> EvalStageRecipe:
        """The recipe. Raises UserError if a local file of the task's is missing."""
        sha256 = None
        if task.path is not None:
            if not (file := Path(task.path).expanduser()).is_file():
                raise UserError(f"evaluate.tasks.{label}.path={task.path}: no such file; give a .jsonl or .parquet")
            sha256 = sha256_file(file)
        asked = task.model_dump(mode="json", exclude={"path", "max_cut_fraction"}, exclude_none=True)
        more: dict[str, Any] = {}
        if is_own(task.name):
            asked["name"], more = task_name(task.name), {"task_sha256": own_sha256(task.name)}
        if commits := {repository.repo: commit for repository in _on_hub(task) if (commit := commit_of(repository))}:
            more["commits"] = commits
        return cls(task=task, asked=asked, test_sha256=sha256, label=label, model=model, seed=seed, **more)


def wanted(life: Lifecycle) -> Iterator[Wanted]:
    """The scores of each model on each task: one artifact each, so an interrupted evaluation goes on at the next."""
    if (asked := life.preset.evaluate) is None:
        return
    models = life.models()
    for name in asked.models:
        for label, task in asked.tasks.items() if name in models else ():
            recipe = EvalStageRecipe.of(task, label, name, asked.seed)
            documents = life.all("acquire") if reads_documents(task) else {}
            inputs = {"model": models[name], "documents": documents}
            yield Wanted(_member(label, name), _member(label, name), recipe, inputs)


def external(preset: Preset) -> Iterator[External]:
    """Every task: its name, its local file, its data sets on the hub."""
    if preset.evaluate is not None:
        for label, task in preset.evaluate.tasks.items():
            members = tuple(_member(label, model) for model in preset.evaluate.models)
            yield External(
                f"evaluate.tasks.{label}",
                members,
                lambda task=task: _check(task, preset),
                lambda task=task: _on_hub(task),
            )


def cost(recipe: EvalStageRecipe, preset: Preset, **inputs: Any) -> Cost:
    """Reading prompts and answers; decoding the answers in batches, a step of which costs what its layers do."""
    task = recipe.task
    local = task.name in local_names()
    documents = task.limit or BENCHMARK_DOCUMENTS
    answer_tokens = task.max_new_tokens or (LOCAL_ANSWER_TOKENS if local else ANSWER_TOKENS)
    prompt_tokens = LOCAL_PROMPT_TOKENS if local else PROMPT_TOKENS
    batches = -(-documents // preset.runtime.eval_batch_rows)
    decode_s = batches * answer_tokens * preset.model.n_layers * LAYER_STEP_S
    return Cost(STARTUP_S + decode_s, forward_tokens=documents * (prompt_tokens + answer_tokens))


def foresee(recipe: EvalStageRecipe, preset: Preset, **inputs: Any) -> Iterator[Foreseen]:
    """Examples that do not fit the model beside the question."""
    examples, context = recipe.task.num_fewshot or 0, preset.model.max_seq_len
    about_tokens = (examples + 1) * EXAMPLE_TOKENS
    if examples and about_tokens > context:
        yield Foreseen(
            f"{recipe.label}: prompts with {examples} examples have about {about_tokens:,} tokens, the model reads "
            f"{context:,}: they will lose their beginning; lower num_fewshot",
            warning=True,
        )


def build(recipe: EvalStageRecipe, run: StageRun, *, model: Artifact, documents: dict[str, Artifact]) -> dict:
    """Write `result.json` (scores with 95 % intervals), `samples.jsonl`, and `items.json` (what came of each item)."""
    from athanor.models.decoding.cuts import cuts_text
    from athanor.tasks.benchmarks.lm_eval_run import run_task
    from athanor.tasks.benchmarks.pinned_sets import unpinned_text
    from athanor.tasks.runs.follow import record_benchmark

    result = run_task(
        recipe.task,
        label=recipe.label,
        model_dir=model.path,
        model_name=recipe.model,
        out=run.out,
        runtime=run.runtime,
        seed=recipe.seed,
        commits=recipe.commits or {},
        documents={name: artifact.path for name, artifact in documents.items()} or None,
        progress=run.progress,
    )
    record_benchmark(run.key, model, result, run.log)
    scores = {name: score["value"] for name, score in result["metrics"].items()}
    said = ", ".join(f"{name} {value:.4f}" for name, value in scores.items())
    reading = result.get("reading", {})
    if reading.get("cut_prompts") or reading.get("short_answers"):
        said += f"; {cuts_text(reading)}"
    run.log(f"{recipe.label} ({recipe.model}): {said}")
    if unpinned := result.get("unpinned_sets"):
        run.log(f"{recipe.label}: {unpinned_text(unpinned)}")
    return {"metrics": scores} | ({"unpinned_sets": unpinned} if unpinned else {})


def _member(label: str, model: ModelName) -> str:
    return f"{label}-{model}"


def _check(task: EvalTaskRecipe, preset: Preset) -> None:
    from athanor.tasks.benchmarks.lm_eval_run import validate_task

    context_tokens = preset.model.max_seq_len
    if reads_documents(task) and not any(source.held_out_fraction for source in preset.sources.values()):
        raise UserError(f"task {task.name}: no source holds any text out; raise data.sources.NAME.held_out_fraction")
    if task.max_new_tokens is not None and task.max_new_tokens >= context_tokens:
        raise UserError(
            f"task {task.name}: max_new_tokens={task.max_new_tokens} leaves no room for a prompt in "
            f"model.max_seq_len={context_tokens}; lower it"
        )
    validate_task(task)


def _on_hub(task: EvalTaskRecipe) -> Iterator[Repository]:
    from athanor.tasks.benchmarks.catalogue import hub_datasets

    for repo in hub_datasets(task):
        yield Repository("dataset", repo)


STAGE = Stage(
    "evaluate",
    part="evaluate",
    wanted=wanted,
    external=external,
    cost=cost,
    build=build,
    foresee=foresee,
    shares=True,
)

"""Scoring one benchmark on one portable checkpoint, with lm-eval.

A base model is prompted with the task's plain text. An `sft` model gets its chat template where it generates; where
likelihoods are compared (choices, bits per byte) both models read the same plain text, so that what fine-tuning
changed can be read off. The result is a function of checkpoint, recipe, seed and device: it holds no times.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from types import MappingProxyType
from typing import Any, Literal

from athanor.core.disk import write_json
from athanor.core.progress import Progress, silent
from athanor.core.runtime import Runtime
from athanor.tasks.benchmarks import catalogue
from athanor.tasks.benchmarks.first_rows import check_rows
from athanor.tasks.benchmarks.local import local_names, reads_documents, write_test_documents
from athanor.tasks.benchmarks.own import task_name
from athanor.tasks.benchmarks.pinned_sets import pinned
from athanor.tasks.benchmarks.scored_rows import check_scored_rows
from athanor.tasks.benchmarks.task_recipe import EvalTaskRecipe

RESULT, SAMPLES, ITEMS = "result.json", "samples.jsonl", "items.json"


def validate_task(recipe: EvalTaskRecipe) -> None:
    """Raise UserError, one line, for a task that cannot run; cheap enough for a plan."""
    catalogue.check(recipe)


def run_task(
    recipe: EvalTaskRecipe,
    *,
    label: str,
    model_dir: Path,
    model_name: Literal["base", "sft"],
    out: Path,
    runtime: Runtime,
    seed: int,
    documents: dict[str, Path] | None = None,
    commits: Mapping[str, str] = MappingProxyType({}),
    progress: Progress = silent,
) -> dict[str, Any]:
    """Write `result.json`, `samples.jsonl` and `items.json` into `out`, and return the result.

    result: {task, label, model, samples_file, metrics: {name: {value, ci_low, ci_high (95 %), n, higher_is_better,
    chance}}, reading: what was cut of the prompts, unpinned_sets: data set on the hub that `commits` lacks -> where it
    was read}; a sample: {prompt, response, expected, correct}; items.json: metric -> {sha256 of the documents,
    values: one each}, for comparisons item by item. `documents`: source -> documents artifact, for bits per byte;
    `commits`: data set on the hub -> where it is read. `seed` draws few-shot examples and sampling noise. Raises
    UserError, one line, for an unknown task, missing data, a copy of a data set at another commit, a damaged
    checkpoint, and prompts most of which do not fit.
    """
    validate_task(recipe)
    from athanor.models.decoding.harness import HarnessLM
    from athanor.tasks.benchmarks import scores

    hub_sets = catalogue.hub_datasets(recipe)
    model = HarnessLM.open(model_dir, runtime, seed=seed, progress=progress, max_cut_fraction=recipe.max_cut_fraction)
    with TemporaryDirectory(prefix="athanor-eval-") as scratch, _quiet(), pinned(commits, hub_sets) as unpinned:
        tasks = _load(recipe, model_name == "sft", Path(scratch), documents, seed)
        records = _evaluate(model, tasks, recipe, model_name == "sft")
    metrics, items = scores.score(tasks, records, split_by="source" if reads_documents(recipe) else None)
    result = {
        "task": task_name(recipe.name),
        "label": label,
        "model": model_name,
        "metrics": metrics,
        **({"reading": model.cuts.facts()} if model.cuts.prompts else {}),
        **({"unpinned_sets": unpinned} if unpinned else {}),
        "samples_file": SAMPLES,
    }
    out.mkdir(parents=True, exist_ok=True)
    with (out / SAMPLES).open("w", encoding="utf-8") as samples:
        samples.writelines(
            json.dumps(sample) + "\n" for sample in scores.readable_samples(tasks, records, model.cuts.read)
        )
    write_json(out / ITEMS, items)
    write_json(out / RESULT, result)
    return result


def _load(
    recipe: EvalTaskRecipe, chat: bool, scratch: Path, documents: dict[str, Path] | None, seed: int
) -> dict[str, Any]:
    given = Path(recipe.path).expanduser() if recipe.path is not None else None
    data_file = given
    if given is not None:
        check_rows(recipe.name, given, most=None)
    elif recipe.name in local_names():
        data_file = scratch / "test.jsonl"
        write_test_documents(recipe.name, data_file, documents, recipe.limit)
    tasks = catalogue.load(recipe, data_file, chat=chat, cache_dir=scratch, seed=seed)
    if given is not None:
        check_scored_rows(recipe.name, given, tasks, recipe.limit)
    return tasks


def _evaluate(model: Any, tasks: dict[str, Any], recipe: EvalTaskRecipe, chat: bool) -> dict[str, list[Any]]:
    """lm-eval's per-document records by task name. `limit` of bits per byte is per source and already applied."""
    from lm_eval.evaluator import evaluate

    generates = all(task.OUTPUT_TYPE == "generate_until" for task in tasks.values())
    results = evaluate(
        model,
        {"tasks": tasks},
        limit=None if reads_documents(recipe) else recipe.limit,
        bootstrap_iters=0,
        apply_chat_template=chat and generates,
        fewshot_as_multiturn=True,
    )
    assert results is not None and "samples" in results, "lm-eval withholds them only from ranks above 0"
    return results["samples"]


@contextmanager
def _quiet() -> Iterator[None]:
    """Silences the progress bars and chatter of lm-eval and datasets; warnings of our own are not touched."""
    import datasets
    import lm_eval.api.task as task_module

    logger, bar = logging.getLogger("lm_eval"), task_module.tqdm
    level, bars_were_off = logger.level, datasets.are_progress_bars_disabled()
    logger.setLevel(logging.ERROR)
    datasets.disable_progress_bars()
    task_module.tqdm = partial(bar, disable=True)
    try:
        yield
    finally:
        logger.setLevel(level)
        task_module.tqdm = bar
        if not bars_were_off:
            datasets.enable_progress_bars()

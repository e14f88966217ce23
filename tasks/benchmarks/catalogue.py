"""Finding and loading lm-eval tasks: the local ones beside this file, the user's own, and those in lm-eval's folders.

lm-eval's default index reads 14,000 YAML files in 20 s. Here what they define is known by a text search (index.py); it
finds the folders in which a task, its group's members or its tag's tasks are defined, and only those are indexed.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from athanor.core.errors import UserError
from athanor.core.near import did_you_mean
from athanor.core.notes import Notes
from athanor.tasks.benchmarks.first_rows import check_rows, template_fields
from athanor.tasks.benchmarks.index import definitions
from athanor.tasks.benchmarks.local import BITS_PER_BYTE, FOLDER, local_names
from athanor.tasks.benchmarks.own import is_own, own_manager, task_name
from athanor.tasks.benchmarks.task_files import task_fields
from athanor.tasks.benchmarks.task_recipe import EvalTaskRecipe

if TYPE_CHECKING:
    from lm_eval.tasks import TaskManager

READERS = {".jsonl": "json", ".json": "json", ".parquet": "parquet"}
_DATASETS = Notes("task-datasets.jsonl")
CHAT_PROMPT = "chat_doc_to_text"  # metadata of a local task: its user message, where the plain prompt has labels


def check(recipe: EvalTaskRecipe) -> None:
    """Raise UserError, one line, for what can be known before anything runs: name, path, examples.

    Local tasks are checked without importing lm-eval.
    """
    if recipe.path is not None:
        _check_path(recipe, Path(recipe.path).expanduser())
    if recipe.name in local_names():
        if recipe.num_fewshot:
            raise UserError(f"task {recipe.name}: num_fewshot={recipe.num_fewshot}, but it has no examples; remove it")
        if recipe.path is not None:
            check_rows(recipe.name, Path(recipe.path).expanduser())
        return
    config = _config(manager(recipe.name), recipe)
    if recipe.path is None:
        return
    if "group" in config or "dataset_path" not in config:
        raise UserError(f"task {recipe.name}: path={recipe.path} can feed one task, not a group; name one of its tasks")
    examples = recipe.num_fewshot if recipe.num_fewshot is not None else config.get("num_fewshot") or 0
    if examples and not _brings_examples(config):
        raise UserError(
            f"task {recipe.name}: path={recipe.path} is a test split and has no examples to show, but {examples} are "
            "asked for; set num_fewshot: 0"
        )
    made_here = config.get("process_docs") is not None  # fields that the file need not have
    check_rows(recipe.name, Path(recipe.path).expanduser(), () if made_here else template_fields(config))


def hub_datasets(recipe: EvalTaskRecipe) -> list[str]:
    """Ids of the hub data sets the task reads, those of a group's members included, sorted. lm-eval's index takes
    seconds to read, so what it says is remembered. UserError for an unknown task."""
    if recipe.path is not None or recipe.name in local_names():
        return []
    if is_own(recipe.name):  # whose file may change
        return sorted(_datasets_in_index(recipe))
    question = {"task": recipe.name, "lm_eval": version("lm_eval")}
    if (known := _DATASETS.answer(question)) is not None:
        return known
    found = sorted(_datasets_in_index(recipe))
    _DATASETS.note(question, found)
    return found


def _datasets_in_index(recipe: EvalTaskRecipe) -> set[str]:
    index = manager(recipe.name).task_index
    waiting, seen, found = [task_name(recipe.name)], set(), set()
    while waiting:
        name = waiting.pop()
        if name in seen or name not in index:
            continue
        seen.add(name)
        config = _with_included(index[name])
        waiting += _members(config.get("task"))
        if index[name].kind.name == "TAG":
            waiting += [other for other, entry in index.items() if name in entry.tags]
        found |= {config["dataset_path"]} if config.get("dataset_path") else set()
    return found - set(READERS.values())


def load(recipe: EvalTaskRecipe, data_file: Path | None, *, chat: bool, cache_dir: Path, seed: int) -> dict[str, Any]:
    """lm-eval task objects by name, ready to evaluate; a group gives its members.

    `data_file` replaces the task's hub data set, `cache_dir` holds what `datasets` makes of it, `seed` draws the
    few-shot examples. Raises UserError where the data, a field or a package is missing.
    """
    tasks = manager(recipe.name)
    config = _config(tasks, recipe)
    changes: dict[str, Any] = {}
    if data_file is not None:
        changes |= _local_data(config, data_file, cache_dir)
    if chat and CHAT_PROMPT in (config.get("metadata") or {}):
        changes["doc_to_text"] = config["metadata"][CHAT_PROMPT]
    name = task_name(recipe.name)
    wanted = {"group": "changed", "task": [{"task": name, **changes}]} if changes else name
    found = _load(tasks, wanted, recipe, config)
    for task in found.values():
        if recipe.num_fewshot is not None:
            task.set_config("num_fewshot", recipe.num_fewshot)
        if recipe.max_new_tokens is not None and task.OUTPUT_TYPE == "generate_until":
            task.set_config("generation_kwargs", {"max_gen_toks": recipe.max_new_tokens}, update=True)
        task.set_fewshot_seed(seed)
    return found


def manager(name: str) -> TaskManager:
    """A task manager that knows `name` and what it consists of. Raises UserError for an unknown name."""
    if is_own(name):
        return own_manager(name)
    folders = {FOLDER} if name in local_names() else set(_folders(name))
    outermost: list[str | Path] = [folder for folder in sorted(folders) if not folders.intersection(folder.parents)]
    if outermost:
        from lm_eval.tasks import TaskManager

        tasks = TaskManager(include_path=outermost, include_defaults=False)
        if name in tasks.task_index:
            return tasks
    hint = did_you_mean(name, local_names()) or did_you_mean(name, definitions())
    raise UserError(
        f"evaluation task {name!r} is unknown: {hint}local tasks are {', '.join(local_names())}; any other name must "
        "be one of lm-eval's (`athanor tasks WORD` finds them), or the path of a task file"
    )


def _check_path(recipe: EvalTaskRecipe, path: Path) -> None:
    if recipe.name == BITS_PER_BYTE:
        raise UserError(f"task {BITS_PER_BYTE} reads the held-out documents of data.sources; remove path={path}")
    if path.suffix not in READERS:
        raise UserError(f"task {recipe.name}: path={path} must end in {', '.join(READERS)}")
    if not path.is_file():
        raise UserError(f"task {recipe.name}: path={path} does not exist; give a .jsonl or .parquet file")


def _config(tasks: TaskManager, recipe: EvalTaskRecipe) -> Mapping[str, Any]:
    return tasks.task_index[task_name(recipe.name)].cfg or {}


def _with_included(entry: Any) -> dict[str, Any]:
    """The fields of a task file and of those it includes, its own first."""
    config, path = dict(entry.cfg or {}), entry.yaml_path
    while path is not None and config.get("include"):
        path = path.parent / config.pop("include")
        included = task_fields(path) if path.is_file() else {}
        config = {**included, **config}
    return config


def _brings_examples(config: Mapping[str, Any]) -> bool:
    return bool((config.get("fewshot_config") or {}).get("samples"))


def _local_data(config: Mapping[str, Any], data_file: Path, cache_dir: Path) -> dict[str, Any]:
    link = cache_dir / f"test-split{data_file.suffix}"  # `datasets` would take brackets in the name for a pattern
    link.symlink_to(data_file.resolve())
    changes: dict[str, Any] = {
        "dataset_path": READERS[data_file.suffix],
        "dataset_name": None,
        "dataset_kwargs": {"data_files": {"test": str(link)}, "cache_dir": str(cache_dir)},
        "test_split": "test",
        "training_split": None,
        "validation_split": None,
        "fewshot_split": None,
    }
    if not _brings_examples(config):
        changes["fewshot_config"] = None
    return changes


def _load(tasks: TaskManager, wanted: Any, recipe: EvalTaskRecipe, config: Mapping[str, Any]) -> dict[str, Any]:
    import jinja2
    from datasets.exceptions import DatasetsError

    try:
        return tasks.load([wanted])["tasks"]
    except (ImportError, AssertionError) as error:  # lm-eval asserts the version of a task's extra packages
        raise UserError(
            f"task {recipe.name} needs packages that are missing ({_one_line(error)}); "
            "pip install 'lm-eval[math]' has those of the mathematics tasks"
        ) from error
    except (KeyError, jinja2.UndefinedError) as error:
        raise UserError(
            f"task {recipe.name}: a record of {recipe.path or 'its data'} lacks {_one_line(error)}"
        ) from error
    except (OSError, ValueError, RuntimeError, StopIteration, IndexError, DatasetsError) as error:
        if recipe.path is not None:
            raise UserError(f"task {recipe.name}: {recipe.path} cannot be read ({_one_line(error)})") from error
        raise UserError(
            f"task {recipe.name}: data set {config.get('dataset_path', 'of its members')} cannot be had "
            f"({_one_line(error)}); give a local test file as path, or go online (gated sets read HF_TOKEN)"
        ) from error


def _folders(name: str) -> Iterator[Path]:
    """Folders of lm-eval in which `name`, a task, group or tag, and whatever it consists of are defined."""
    defined = definitions()
    waiting, seen = [name], set()
    while waiting:
        current = waiting.pop()
        if current in seen:
            continue
        seen.add(current)
        found = defined.get(current, [])
        tagged = [str(one.file.parent) for one in found if one.kind == "tag"]
        if tagged:  # lm-eval collects a tag's tasks within one folder given to it, not across several
            yield Path(os.path.commonpath(tagged))
        for one in found:
            if one.kind != "tag":
                yield one.file.parent
            if one.kind == "group":
                waiting += _members(task_fields(one.file).get("task"))


def _members(listed: Any) -> Iterator[str]:
    for member in listed if isinstance(listed, list) else [listed]:
        if isinstance(member, str):
            yield member
        elif isinstance(member, dict):
            yield from _members(member.get("task"))
            yield from _members(member.get("group"))


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200] or "no records"

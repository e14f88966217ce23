"""What would make a run fail, found before anything is paid: sources, hub access, tokenizer, tasks, disk, versions.

Only what the run still has to read is asked about: a stage that is cached needs no hub. An unreachable hub is an error,
unless what is needed lies in the Hugging Face cache already; then it is a warning.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal

from athanor.core.disk import home
from athanor.core.errors import UserError
from athanor.core.numbers import size
from athanor.data.data_recipe import SourceRecipe, TokenizerRecipe
from athanor.data.hub_access import Kind, hub_access
from athanor.data.sources.source import source_of
from athanor.flows.plan.survey import StageSurvey
from athanor.flows.presets.preset import Preset
from athanor.tasks import acquire
from athanor.tasks.benchmarks import catalogue
from athanor.tasks.benchmarks.lm_eval_run import validate_task
from athanor.tasks.make_tokenizer import TokenizerStageRecipe
from athanor.tasks.stage import versions
from athanor.tasks.stage_recipes import EvalTaskRecipe

CONSTRAINTS = Path(__file__).parent.parent.parent / "constraints.txt"
DISK_WARNING_SHARE = 0.8
Level = Literal["ok", "warning", "error"]


@dataclass(frozen=True)
class Finding:
    """One check: what was looked at, and in one line what came out. An error means that the run would fail."""

    level: Level
    subject: str
    message: str


@dataclass(frozen=True)
class _Repository:
    """A hub repository the run reads, and whether a copy of it lies in a local cache."""

    subject: str
    kind: Kind
    repo: str
    revision: str | None
    cached: Callable[[], bool]


def recipe_findings(preset: Preset) -> list[Finding]:
    """Errors of local files and of task names, each by itself; with any of them the keys are not known."""
    checks: list[tuple[str, Callable[[], object]]] = [
        (subject, lambda source=source: acquire.AcquireRecipe.of(source)) for subject, source in _sources(preset)
    ]
    checks.append(("tokenizer", lambda: TokenizerStageRecipe.of(preset.tokenizer, preset.data.mixture.start)))
    for label, task in preset.evaluate.tasks.items() if preset.evaluate else ():
        checks.append((f"evaluate.tasks.{label}", lambda task=task: validate_task(task)))
    return [finding for subject, check in checks for finding in _caught(subject, check)]


def access_findings(preset: Preset, stages: list[StageSurvey] | None) -> list[Finding]:
    """One finding for each hub repository that stages still to be built read; all are asked at once.

    Without `stages`, for want of keys, everything counts as still to be built.
    """
    wanted = list(_repositories(preset, stages))
    with ThreadPoolExecutor(max_workers=8) as pool:
        return list(pool.map(_access, wanted))


def disk_finding(needed_bytes: float) -> Finding:
    """Whether the artifacts still to be built fit the disk that holds ATHANOR_HOME."""
    place = next(folder for folder in (home(), *home().parents) if folder.exists())
    free_bytes = shutil.disk_usage(place).free
    message = f"about {size(needed_bytes)} to be written, {size(free_bytes)} free at {home()}"
    if needed_bytes > free_bytes:
        return Finding("error", "disk", f"{message}; free some, or set ATHANOR_HOME to another disk")
    return Finding("warning" if needed_bytes > DISK_WARNING_SHARE * free_bytes else "ok", "disk", message)


def version_findings() -> list[Finding]:
    """A warning for each package that decides numbers and is not the version the tests ran with."""
    if not CONSTRAINTS.is_file():  # installed without the repository
        return []
    tested = dict(re.findall(r"^([\w.-]+)==(\S+)$", CONSTRAINTS.read_text().lower().replace("_", "-"), re.MULTILINE))
    findings = []
    for package in versions():
        try:
            here = version(package).partition("+")[0]
        except PackageNotFoundError:
            continue
        if tested.get(package, here) != here:
            message = (
                f"{here} is installed, the tests ran with {tested[package]}; pip install {package}=={tested[package]}"
            )
            findings.append(Finding("warning", package, message))
    return findings or [Finding("ok", "versions", "those the tests ran with")]


def _sources(preset: Preset) -> Iterator[tuple[str, SourceRecipe]]:
    for name, source in preset.data.sources.items():
        yield f"data.sources.{name}", source
    if preset.sft is not None:
        yield "sft.source", preset.sft.source


def _caught(subject: str, check: Callable[[], object]) -> Iterator[Finding]:
    try:
        check()
    except UserError as error:
        yield Finding("error", subject, str(error))


def _repositories(preset: Preset, stages: list[StageSurvey] | None) -> Iterator[_Repository]:
    def waiting(stage: str, field: str = "", value: object = None) -> bool:
        alike = (s for s in stages or () if s.stage == stage and (not field or getattr(s.recipe, field) == value))
        return stages is None or any(found.state != "cached" for found in alike)

    for subject, source in _sources(preset):
        repository = source_of(source).repository(source)
        if repository is not None and waiting("acquire", "source", source):  # streamed, so no cache helps
            yield _Repository(subject, *repository, lambda: False)
    tokenizer = preset.tokenizer
    if tokenizer.hub is not None and waiting("tokenizer"):
        revision = tokenizer.hub_revision
        yield _Repository("tokenizer", "model", tokenizer.hub, revision, lambda: _tokenizer_cached(tokenizer))
    asked: set[str] = set()
    for label, task in preset.evaluate.tasks.items() if preset.evaluate else ():
        for repo in sorted(_hub_datasets(task) - asked) if waiting("evaluate", "label", label) else ():
            asked.add(repo)
            yield _Repository(f"task {task.name}", "dataset", repo, None, lambda repo=repo: _dataset_cached(repo))


def _hub_datasets(task: EvalTaskRecipe) -> set[str]:
    try:
        return catalogue.hub_datasets(task)
    except UserError:  # an unknown task, which is an error of its own
        return set()


def _access(wanted: _Repository) -> Finding:
    access = hub_access(wanted.kind, wanted.repo, wanted.revision)
    subject = f"{wanted.subject}: hub {wanted.repo}"
    if access.problem is None:
        return Finding("ok", subject, "can be read")
    if access.state in ("offline", "unreachable") and wanted.cached():
        return Finding("warning", subject, f"{access.problem}; a copy is cached and will be used")
    return Finding("error", subject, access.problem)


def _tokenizer_cached(tokenizer: TokenizerRecipe) -> bool:
    from huggingface_hub import try_to_load_from_cache

    revision = tokenizer.hub_revision or "main"
    return isinstance(try_to_load_from_cache(str(tokenizer.hub), "tokenizer.json", revision=revision), str)


def _dataset_cached(repo: str) -> bool:
    from datasets.config import HF_DATASETS_CACHE

    return (Path(HF_DATASETS_CACHE) / repo.replace("/", "___").lower()).is_dir()

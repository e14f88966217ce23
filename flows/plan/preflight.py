"""What would make a run fail, found before anything is paid: sources, hub access, tokenizer, tasks, disk, versions.

Only what the run still has to read is asked about: a stage that is cached needs no hub. An unreachable hub is an error,
unless what is needed lies in the Hugging Face cache already; then it is a warning.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Collection, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal, assert_never

from athanor.core.disk import home
from athanor.core.errors import UserError
from athanor.core.numbers import size
from athanor.core.store import Store
from athanor.data.hub_access import Access, Repository, hub_access
from athanor.data.hub_commits import commit_of, note_commit
from athanor.flows.plan.survey import StageSurvey, Survey
from athanor.tasks.external import External
from athanor.tasks.preset_recipe import Preset
from athanor.tasks.stage import inputs_there, stages_of
from athanor.tasks.stage_task import versions

CONSTRAINTS = Path(__file__).parent.parent.parent / "constraints.txt"
DISK_WARNING_SHARE = 0.8
Level = Literal["ok", "warning", "error"]
Answers = dict[Repository, Access]


@dataclass(frozen=True)
class Finding:
    """One check: what was looked at, and in one line what came out. An error means that the run would fail."""

    level: Level
    subject: str
    message: str


def recipe_findings(preset: Preset) -> list[Finding]:
    """Errors of local files and of task names, each by itself; with any of them the keys are not known."""
    externals = [external for stage in stages_of() for external in stage.external(preset)]
    return [finding for external in externals for finding in _caught(external.field, external.check)]


def rank_findings(preset: Preset) -> list[Finding]:
    """Errors of the runs that the ranks of the runtime cannot train."""
    from athanor.tasks.trainer.engines.build import check_ranks

    runs = preset.trainings.items()
    return [f for name, run in runs for f in _caught(name, lambda run=run: check_ranks(preset.runtime, run))]


def kernel_findings(preset: Preset) -> list[Finding]:
    """Errors of the names of kernels, in the runtime or the environment."""
    from athanor.kernels.kind import asked

    return list(_caught("kernels", lambda: asked(preset.runtime.kernels)))


def learn_commits(preset: Preset) -> Answers:
    """Fix the commits of the repositories that were never seen, of which keys are made; what the hub said of them."""
    unseen = [repository for _, repository in _repositories(preset, None) if commit_of(repository) is None]
    answers = _ask(unseen)
    for repository, access in answers.items():
        note_commit(repository, access.commit or (_cached_commit(repository) if access.problem else None))
    return answers


def hub_findings(preset: Preset, flow: str, rebuilt: Collection[str] = ()) -> list[Finding]:
    """What a flow that is about to run learns of the hub: the commits of which its keys are made, and a finding for
    each repository that it still has to read. `rebuilt` names stages that are built again, whatever is there."""
    answers = learn_commits(preset)
    if not any(_repositories(preset, None)):
        return []
    stages = Survey(preset).needed_by(flow)
    stages = [replace(stage, state="run") if stage.stage in rebuilt else stage for stage in stages]
    return access_findings(preset, stages, answers)


def access_findings(preset: Preset, stages: list[StageSurvey] | None, answers: Answers) -> list[Finding]:
    """One finding for each hub repository that stages still to be built read; those not in `answers` are asked at once.

    Without `stages`, for want of keys, everything counts as still to be built.
    """
    wanted = list(_repositories(preset, stages))
    answers = answers | _ask(repository for _, repository in wanted if repository not in answers)
    return [_access_finding(field, repository, answers[repository]) for field, repository in wanted]


def _ask(repositories: Iterable[Repository]) -> Answers:
    asked = list(repositories)
    with ThreadPoolExecutor(max_workers=8) as pool:
        return dict(zip(asked, pool.map(lambda one: hub_access(one.kind, one.repo, one.revision), asked), strict=True))


def foreseen_findings(survey: Survey, stages: list[StageSurvey]) -> list[Finding]:
    """What the inputs that are built say of stages that are not."""
    findings: list[Finding] = []
    for stage in stages:
        if stage.state == "cached" or stage.record.foresee is None:
            continue
        try:
            built = inputs_there(stage.wanted.inputs, lambda artifact: survey.surveyed(artifact).state == "cached")
            foreseen = list(stage.record.foresee(stage.wanted.recipe, survey.preset, **built))
        except UserError as error:
            findings.append(Finding("error", stage.stage, str(error)))
        else:
            findings += [Finding("warning" if line.warning else "ok", stage.stage, line.message) for line in foreseen]
    return list(dict.fromkeys(findings))  # a benchmark says of one model what it says of the other


def disk_finding(needed_bytes: float) -> Finding:
    """Whether ATHANOR_HOME can be written to, and the artifacts still to be built fit the disk that holds it."""
    place = next(folder for folder in (home(), *home().parents) if folder.exists())
    for folder in (place, Store().root):
        if folder.exists() and not (folder.is_dir() and os.access(folder, os.W_OK | os.X_OK)):
            what = "cannot be written to" if folder.is_dir() else "is no folder"
            message = f"{folder} {what}; set ATHANOR_HOME (now {home()}) to a folder you can write to"
            return Finding("error", "disk", message)
    free_bytes = shutil.disk_usage(place).free
    message = f"about {size(needed_bytes)} to be written, {size(free_bytes)} free at {home()}"
    if needed_bytes > free_bytes:
        return Finding("error", "disk", f"{message}; free some, or set ATHANOR_HOME to another disk")
    return Finding("warning" if needed_bytes > DISK_WARNING_SHARE * free_bytes else "ok", "disk", message)


def version_findings() -> list[Finding]:
    """A warning for each package that decides numbers and is not the version the tests ran with."""
    if not CONSTRAINTS.is_file():  # installed without the repository
        return []
    tested = dict(
        re.findall(
            r"^([\w.-]+)==(\S+)$", CONSTRAINTS.read_text(encoding="utf-8").lower().replace("_", "-"), re.MULTILINE
        )
    )
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


def _caught(subject: str, check: Callable[[], object]) -> Iterator[Finding]:
    try:
        check()
    except UserError as error:
        yield Finding("error", subject, str(error))


def _repositories(preset: Preset, stages: list[StageSurvey] | None) -> Iterator[tuple[str, Repository]]:
    """Field of the preset and repository, each repository once."""
    asked: set[Repository] = set()
    for stage in stages_of():
        waiting = {s.wanted.member for s in stages or () if s.record is stage and s.state != "cached"}
        for external in stage.external(preset):
            if stages is None or waiting.intersection(external.members):
                for repository in _known_repositories(external):
                    if repository not in asked:
                        asked.add(repository)
                        yield external.field, repository


def _known_repositories(external: External) -> list[Repository]:
    try:
        return list(external.repositories())
    except UserError:  # an unknown task, which is an error of its own
        return []


def _access_finding(field: str, repository: Repository, access: Access) -> Finding:
    subject, commit = f"{field}: hub {repository.repo}", commit_of(repository)
    if access.problem is None and access.commit is not None and commit not in (None, access.commit):
        message = (
            f"has moved on to {access.commit[:12]} and is read at {commit}; hub_revision: {access.commit} takes it"
        )
        return Finding("warning", subject, message)
    if access.problem is None:
        return Finding("ok", subject, "can be read" + (f", at {commit[:12]}" if commit is not None else ""))
    if access.state in ("offline", "unreachable") and _is_cached(repository):
        return Finding("warning", subject, f"{access.problem}; a copy is cached and will be used")
    return Finding("error", subject, access.problem)


def _is_cached(repository: Repository) -> bool:
    if repository.streamed:
        return False
    match repository.kind:
        case "model":
            from athanor.data.tokenizer import cached_tokenizer_file

            revision = commit_of(repository) or repository.revision
            return cached_tokenizer_file(repository.repo, revision) is not None
        case "dataset":
            copies, commit = _cached_copies(repository.repo), commit_of(repository)
            return bool(copies) if commit is None else commit in copies
        case other:
            assert_never(other)


def _cached_commit(repository: Repository) -> str | None:
    """The commit that the copy in the cache here is of: its folder's name. None where there are copies of several."""
    match repository.kind:
        case "model":
            from athanor.data.tokenizer import cached_tokenizer_file

            file = cached_tokenizer_file(repository.repo, repository.revision)
            return file.parent.name if file is not None else None
        case "dataset":
            copies = set() if repository.streamed else _cached_copies(repository.repo)
            return next(iter(copies)) if len(copies) == 1 else None
        case other:
            assert_never(other)


def _cached_copies(repo: str) -> set[str]:
    """Commits of the copies of a data set in the cache of `datasets`, of any of its configurations."""
    from datasets.config import HF_DATASETS_CACHE
    from datasets.naming import camelcase_to_snakecase

    owner, _, name = repo.rpartition("/")
    folder = Path(HF_DATASETS_CACHE) / "___".join(part for part in (owner, camelcase_to_snakecase(name)) if part)
    return {copy.name for copy in folder.glob("*/*/*") if copy.is_dir()}  # configuration, version, commit

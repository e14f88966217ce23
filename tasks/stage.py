"""Stages: a function body becomes a Prefect task whose result is an artifact in the store.

The store decides what is done. Prefect's own record of the result is kept inside the artifact's directory, under
the artifact's key, so the two agree: a hit is a task run in state `Cached`, also after Prefect's database is wiped,
and deleting the directory makes that stage alone run again. Torn artifacts are named and rebuilt. Two runs that want
one key at once: one builds, the other waits and then finds it.

Prefect is imported when a stage is run, inside the functions that need it, and what a stage's body needs inside the
body: a plan asks for keys and states alone, and a run served from the store loads no more than Prefect.
"""

from __future__ import annotations

import inspect
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache, cached_property
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from athanor.core.code import code_fingerprint
from athanor.core.progress import Progress
from athanor.core.recipe import Recipe
from athanor.core.runtime import Runtime
from athanor.core.store import ENGINE_RECORD, Artifact, Store, artifact_key, no_space
from athanor.tasks.trainer.process.exit_codes import Retryable

if TYPE_CHECKING:
    from prefect import Task

PROGRESS_EVERY_S = 10.0  # an update of a progress artifact costs about 27 ms
Inputs = dict[str, Artifact | dict[str, Artifact]]


@dataclass
class StageRun:
    """What a stage body sees of the run it belongs to."""

    out: Path
    key: str
    runtime: Runtime
    log: Callable[[str], None]
    progress: Progress


@dataclass(frozen=True)
class Decision:
    """Options of one invocation that do not change what is built, only whether."""

    rebuild: bool = False
    verify: bool = False


class Stage:
    """A stage of the lifecycle. Call it inside a flow to get its artifact, built or found."""

    def __init__(self, body: Callable[..., dict], name: str, code_version: int, resumable: bool, code: tuple[str, ...]):
        self.body = body
        self.name = name
        self.code_version = code_version
        self.resumable = resumable
        self.modules = (body.__module__, *code)

    @cached_property
    def task(self) -> Task:
        """The Prefect task of this stage."""
        from prefect import Task

        return Task(
            fn=self._run,
            name=self.name,
            description=inspect.getdoc(self.body),
            persist_result=True,
            result_serializer="json",
            retry_condition_fn=lambda task, run, state: _retryable(state),
            retry_delay_seconds=1,
        )

    def artifact(self, recipe: Recipe, label: str, inputs: Inputs, store: Store) -> Artifact:
        """Where the result for this recipe and these inputs lies; nothing is built."""
        return store.artifact(self.name, label, artifact_key(self.name, self.code_version, recipe, parent_keys(inputs)))

    def __call__(
        self, recipe: Recipe, *, label: str, runtime: Runtime, decision: Decision = Decision(), **inputs: Any
    ) -> Artifact:
        """The artifact of `recipe`, from the store if it is whole there, else built now.

        Raises UserError for whatever the user can mend, in one line.
        """
        from prefect.cache_policies import CachePolicy

        store = Store()
        artifact = self.artifact(recipe, label, inputs, store)
        stale = False
        if artifact.path.exists():
            stale = decision.rebuild or self._is_stale(store, artifact, runtime, decision.verify)
        record = f"{artifact.name}/{ENGINE_RECORD}"
        if stale:
            (store.root / record).unlink(missing_ok=True)
        task = self.task.with_options(
            task_run_name=f"{self.name} {label}",
            result_storage=store.root,
            cache_policy=CachePolicy.from_cache_key_fn(lambda context, parameters: record),
            retries=runtime.retries,
        )
        task(recipe, artifact, runtime, inputs, stale)  # pyright: ignore[reportUnusedCoroutine]
        return store.artifact(self.name, label, artifact.key)

    def _is_stale(self, store: Store, artifact: Artifact, runtime: Runtime, verify: bool) -> bool:
        """Whether an existing directory must be built again: torn, altered, or drifted and so asked for."""
        if (problem := store.problem(artifact, verify)) is not None:
            _logger().warning("%s is not whole: %s; rebuilding it", artifact.name, problem)
            return True
        if artifact.manifest["code"] == self.fingerprint():
            return False
        action = "rebuilding it" if runtime.rebuild_drifted else "used as it is (--rebuild-drifted rebuilds it)"
        _logger().warning("%s was made by other code than today's: %s", artifact.name, action)
        return runtime.rebuild_drifted

    def fingerprint(self) -> str:
        """Fingerprint of the code this stage runs, read once per process."""
        return self._fingerprint

    @cached_property
    def _fingerprint(self) -> str:
        return "-".join(code_fingerprint(module)[:16] for module in self.modules)

    def _run(self, recipe: Recipe, artifact: Artifact, runtime: Runtime, inputs: Inputs, stale: bool) -> Any:
        from prefect.states import Completed

        store = Store()
        log = _logger()
        started = time.time()
        try:
            with store.lock(artifact, lambda: log.info("another run is building %s; waiting for it", artifact.name)):
                if store.problem(artifact) is None and (not stale or artifact.path.stat().st_mtime > started):
                    return Completed(name="Cached", message=f"{artifact.name} was in the store", data=artifact.name)
                self._build(store, artifact, recipe, runtime, inputs)
        except OSError as error:
            if (full := no_space(error, store.root)) is None:
                raise
            raise full from None
        return artifact.name

    def _build(self, store: Store, artifact: Artifact, recipe: Recipe, runtime: Runtime, inputs: Inputs) -> None:
        log = _logger()
        partial = store.partial(artifact, resume=self.resumable)
        if self.resumable and any(partial.iterdir()):
            log.info("%s: continuing what an earlier run left", artifact.name)
        started = time.monotonic()
        progress = _ProgressArtifact(f"{self.name} {artifact.label}")
        run = StageRun(partial, artifact.key, runtime, log.info, progress)
        facts = self.body(recipe, run, **inputs)
        progress.finish()
        wall_s = facts.pop("wall_s", time.monotonic() - started)
        store.publish(
            artifact,
            partial,
            {
                "code_version": self.code_version,
                "recipe": recipe.model_dump(mode="json", exclude_none=True),
                "parents": parent_keys(inputs),
                "code": self.fingerprint(),
                "versions": versions(),
                "wall_s": round(wall_s, 3),
                "cost_usd": facts.pop("cost_usd", round(wall_s / 3600 * runtime.price_usd_per_hour, 6)),
                "facts": facts,
                "created": datetime.now(UTC).isoformat(timespec="seconds"),
            },
        )
        log.info("%s: made in %.1f s", artifact.name, wall_s)


def stage(
    name: str, code_version: int = 1, resumable: bool = False, code: tuple[str, ...] = ()
) -> Callable[[Callable[..., dict]], Stage]:
    """Decorator: `body(recipe, run, **inputs) -> facts` becomes the stage `name`.

    Raise `code_version` when the same recipe must give other bytes than before. A `resumable` body finds in
    `run.out` what an earlier attempt left there. `code` names modules the body starts but does not import.
    """
    return lambda body: Stage(body, name, code_version, resumable, code)


def parent_keys(inputs: Inputs) -> dict[str, str]:
    """Input name, of a group `name.member`, -> key."""
    parents: dict[str, str] = {}
    for name, value in inputs.items():
        if isinstance(value, Artifact):
            parents[name] = value.key
        else:
            parents |= {f"{name}.{inner}": artifact.key for inner, artifact in value.items()}
    return dict(sorted(parents.items()))


def _retryable(state: Any) -> bool:
    return isinstance(state.result(raise_on_failure=False), Retryable)


def _logger() -> Any:
    from prefect.context import FlowRunContext
    from prefect.logging import get_logger, get_run_logger

    return get_run_logger() if FlowRunContext.get() else get_logger("athanor")


@cache
def versions() -> dict[str, str]:
    """Versions of Python and of the packages that decide numbers."""
    found = {"python": platform.python_version()}
    for package in ("athanor", "torch", "triton", "numpy", "tokenizers", "datasets", "lm-eval", "prefect"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


class _ProgressArtifact:
    """A progress bar in the Prefect UI, updated at most every PROGRESS_EVERY_S, with the time left."""

    def __init__(self, title: str):
        self.title = title
        self.id: Any = None
        self.started = time.monotonic()
        self.updated = self.started

    def __call__(self, done: float, total: float | None, unit: str) -> None:
        now = time.monotonic()
        if not total or now - self.updated < PROGRESS_EVERY_S:
            return
        from prefect.artifacts import create_progress_artifact, update_progress_artifact
        from prefect.context import FlowRunContext

        if FlowRunContext.get() is None:
            return
        self.updated = now
        share = min(1.0, done / total)
        left_s = (now - self.started) * (1 - share) / share if share else 0.0
        text = f"{self.title}: {done:,.0f} of {total:,.0f} {unit}, about {left_s:.0f} s left"
        if self.id is None:
            self.id = create_progress_artifact(progress=100 * share, description=text)
        else:
            update_progress_artifact(self.id, progress=100 * share, description=text)

    def finish(self) -> None:
        """Show a bar that was started as complete."""
        from prefect.artifacts import update_progress_artifact

        if self.id is not None:
            update_progress_artifact(self.id, progress=100.0, description=f"{self.title}: done")

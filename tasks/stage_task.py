"""A stage as a Prefect task whose result is an artifact in the store. Nothing else in tasks/ knows Prefect.

The store decides what is done. Prefect's own record of the result is kept inside the artifact's directory, under
the artifact's key, so the two agree: a hit is a task run in state `Cached`, also after Prefect's database is wiped,
and deleting the directory makes that stage alone run again. Torn artifacts are named and rebuilt. Two runs that want
one key at once: one builds, the other waits and then finds it.

Prefect is imported inside the functions, when a stage is run: the table of stages looks into every module beside this
one, and a plan, which asks it for keys and states, needs no Prefect.
"""

from __future__ import annotations

import inspect
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from athanor.core.disk import no_space
from athanor.core.numbers import duration
from athanor.core.progress import WATCHER, Pace
from athanor.core.runtime import Runtime
from athanor.core.shared_time import SHARED_TIME
from athanor.core.store import ENGINE_RECORD, Artifact, Store
from athanor.tasks.stage import Stage, StageRun, Wanted, parent_keys
from athanor.tasks.trainer.process.exit_codes import Retryable

if TYPE_CHECKING:
    from prefect import State, Task

    from athanor.tasks.stage_process import StageProcess

CACHED = "Cached"  # Prefect's own name of a state that was found
PROGRESS_EVERY_S = 10.0  # an update of a progress artifact costs about 27 ms


@dataclass(frozen=True)
class Decision:
    """Options of one invocation that do not change what is built, only whether."""

    rebuild: bool = False
    verify: bool = False


def run_stage(
    stage: Stage,
    wanted: Wanted,
    runtime: Runtime,
    decision: Decision = Decision(),
    made: dict[str, State] | None = None,
) -> Artifact:
    """What is wanted of a stage, from the store if it is whole there, else built now. To be called inside a flow.

    `made`, artifact key -> the end of the task run that made it, gets this one's: from the entries of its parents the
    task run knows what it follows, and the UI draws the arrows. Raises UserError for whatever the user can mend, in
    one line.
    """
    made = made if made is not None else {}
    asked = _Asked.of(stage, wanted, runtime, decision)
    state = asked.task(*asked.parameters, None, wait_for=_parents(wanted, made), return_state=True)
    return _made(stage, wanted, made, state)


def begin_stage(
    stage: Stage,
    wanted: Wanted,
    runtime: Runtime,
    decision: Decision,
    process: StageProcess,
    ended: Callable[[], None],
    made: dict[str, State],
) -> Callable[[], Artifact]:
    """Begin to build it in a process of its own, beside what else the flow does; `ended` is called in some thread when
    that is over. What is returned must be called then: it returns or raises as `run_stage` does.
    """
    asked = _Asked.of(stage, wanted, runtime, decision)
    future = asked.task.submit(*asked.parameters, process, wait_for=_parents(wanted, made))
    future.add_done_callback(lambda _: ended())

    def result() -> Artifact:
        future.wait()  # else its state is what the server has heard of so far
        return _made(stage, wanted, made, future.state)

    return result


@dataclass(frozen=True)
class _Asked:
    """The task of a stage, and what it is run with."""

    task: Task
    parameters: tuple[Wanted, Artifact, Runtime, bool]

    @classmethod
    def of(cls, stage: Stage, wanted: Wanted, runtime: Runtime, decision: Decision) -> _Asked:
        """For what is wanted; Prefect's record of something stale is removed."""
        from prefect.cache_policies import CachePolicy

        store = Store()
        artifact = stage.artifact(wanted, store)
        stale = False
        if artifact.path.exists():
            stale = decision.rebuild or _is_stale(stage, store, artifact, runtime, decision.verify)
        record = f"{artifact.name}/{ENGINE_RECORD}"
        if stale:
            (store.root / record).unlink(missing_ok=True)
        task = _task(stage).with_options(
            task_run_name=_title(stage, wanted),
            result_storage=store.root,
            cache_policy=CachePolicy.from_cache_key_fn(lambda context, parameters: record),
            retries=runtime.retries,
        )
        return cls(task, (wanted, artifact, runtime, stale))


def _title(stage: Stage, wanted: Wanted) -> str:
    return f"{stage.name} {wanted.label}"


def _parents(wanted: Wanted, made: dict[str, State]) -> list[State]:
    return [made[key] for key in parent_keys(wanted.inputs).values() if key in made]


def _made(stage: Stage, wanted: Wanted, made: dict[str, State], state: State) -> Artifact:
    """What a task run has made, noted. Raises what it failed with; Prefect's own record of that, beside the artifacts,
    is taken away."""
    if not state.is_completed() and (record := getattr(state.data, "metadata", None)) is not None:
        Path(record.storage_key).unlink(missing_ok=True)
    state.result()
    artifact = stage.artifact(wanted, Store())
    made[artifact.key] = state
    WATCHER.get().ended(_title(stage, wanted), cached=state.name == CACHED)
    return artifact


@cache
def _task(stage: Stage) -> Task:
    from prefect import Task

    def find_or_build(
        wanted: Wanted, artifact: Artifact, runtime: Runtime, stale: bool, process: StageProcess | None
    ) -> Any:
        return _find_or_build(stage, wanted, artifact, runtime, stale, process)

    return Task(
        fn=find_or_build,
        name=stage.name,
        description=inspect.getdoc(stage.build),
        persist_result=True,
        result_serializer="json",
        retry_condition_fn=lambda task, run, state: _retryable(state),
        retry_delay_seconds=1,
    )


def _is_stale(stage: Stage, store: Store, artifact: Artifact, runtime: Runtime, verify: bool) -> bool:
    """Whether an existing directory must be built again: torn, altered, or drifted and so asked for."""
    if (problem := store.problem(artifact, verify)) is not None:
        _logger().warning("%s is not whole: %s; rebuilding it", artifact.name, problem)
        return True
    if artifact.manifest["code"] == stage.fingerprint():
        return False
    action = "rebuilding it" if runtime.rebuild_drifted else "used as it is (--rebuild-drifted rebuilds it)"
    _logger().warning("%s was made by other code than today's: %s", artifact.name, action)
    return runtime.rebuild_drifted


def _find_or_build(
    stage: Stage, wanted: Wanted, artifact: Artifact, runtime: Runtime, stale: bool, process: StageProcess | None
) -> Any:
    from prefect.states import Completed

    store = Store()
    log = _logger()
    started = time.time()
    try:
        with store.lock(artifact, lambda: log.info("another run is building %s; waiting for it", artifact.name)):
            if store.problem(artifact) is None and (not stale or artifact.path.stat().st_mtime > started):
                return Completed(name=CACHED, message=f"{artifact.name} was in the store", data=artifact.name)
            _build(stage, store, wanted, artifact, runtime, process)
    except OSError as error:
        if (full := no_space(error, store.root)) is None:
            raise
        raise full from None
    return artifact.name


def _build(
    stage: Stage, store: Store, wanted: Wanted, artifact: Artifact, runtime: Runtime, process: StageProcess | None
) -> None:
    log = _logger()
    partial = store.partial(artifact, resume=stage.resumable)
    if stage.resumable and any(partial.iterdir()):
        log.info("%s: continuing what an earlier run left", artifact.name)
    title = _title(stage, wanted)
    WATCHER.get().began(title, _cost_usd(runtime, 3600))
    progress = _ProgressArtifact(title)
    run = StageRun(partial, artifact.key, runtime, log.info, progress)
    with SHARED_TIME.share() as share:
        if process is None:
            facts = stage.build(wanted.recipe, run, **wanted.inputs)
        else:
            facts = process.build(stage, wanted.recipe, run, wanted.inputs)
    progress.finish()
    wall_s = facts.pop("wall_s", share.seconds)
    store.publish(
        artifact,
        partial,
        {
            "code_version": stage.code_version,
            "recipe": wanted.recipe.model_dump(mode="json", exclude_none=True),
            "parents": parent_keys(wanted.inputs),
            "code": stage.fingerprint(),
            "versions": versions(),
            "wall_s": round(wall_s, 3),
            "cost_usd": facts.pop("cost_usd", round(_cost_usd(runtime, wall_s), 6)),
            "facts": facts,
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
        },
    )
    log.info("made in %s: %s", duration(wall_s), artifact.name)


def _cost_usd(runtime: Runtime, wall_s: float) -> float:
    """Of all the devices, which are held whichever of them a stage computes on."""
    from athanor.models.device import choose_device

    return wall_s / 3600 * runtime.price_usd_per_hour * runtime.devices(choose_device(runtime.device).type)


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
    """A stage's progress: for whoever watches the run, and as a bar in the Prefect UI, updated at most every
    PROGRESS_EVERY_S, with the time left."""

    def __init__(self, title: str):
        self.title = title
        self.id: Any = None
        self.updated = time.monotonic()
        self.pace = Pace()

    def __call__(self, done: float, total: float | None, unit: str) -> None:
        WATCHER.get().reached(self.title, done, total, unit)
        self.pace.reached(done)
        now = time.monotonic()
        if not total or now - self.updated < PROGRESS_EVERY_S:
            return
        from prefect.artifacts import create_progress_artifact, update_progress_artifact
        from prefect.context import FlowRunContext

        if FlowRunContext.get() is None:
            return
        self.updated = now
        share = min(1.0, done / total)
        text = f"{self.title}: {done:,.0f} of {total:,.0f} {unit}"
        if (left_s := self.pace.left_s(total)) is not None:
            text += f", about {duration(left_s)} left"
        if self.id is None:
            self.id = create_progress_artifact(progress=100 * share, description=text)
        else:
            update_progress_artifact(self.id, progress=100 * share, description=text)

    def finish(self) -> None:
        """Show a bar that was started as complete."""
        from prefect.artifacts import update_progress_artifact

        if self.id is not None:
            update_progress_artifact(self.id, progress=100.0, description=f"{self.title}: done")

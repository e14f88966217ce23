"""A training run: from `run.json` to the portable checkpoint, continuing from whatever an earlier attempt left.

Between two steps, in this order: the reasons to stop, what the budget allows, the evaluation if one is due, the
checkpoint if one is due. A checkpoint is committed after the rows before it are on the disk. Every number in the log
but times and money is a function of `run.json` and the data it names, however often the run was interrupted; unless a
budget cuts the run, for that depends on the machine.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock, Timeout

from athanor.core.errors import UserError
from athanor.core.store import write_json
from athanor.data.loader import Batch
from athanor.data.permutation import hash64
from athanor.models.checkpoints.portable import write_portable
from athanor.models.counts import flops_per_token
from athanor.models.device import choose_device, choose_precision, peak_flops
from athanor.models.skeleton import LanguageModel
from athanor.tasks.trainer.course.course import Course
from athanor.tasks.trainer.course.declaration import declared_schedule
from athanor.tasks.trainer.course.guard import Guard
from athanor.tasks.trainer.course.pace import Pace, revised
from athanor.tasks.trainer.engines.build import build_engine, check_world
from athanor.tasks.trainer.optimizers.build import build_optimizer
from athanor.tasks.trainer.process.exit_codes import Preempted
from athanor.tasks.trainer.process.stop_request import StopRequest
from athanor.tasks.trainer.process.world import World
from athanor.tasks.trainer.records.checkpoint import CheckpointFolder, Position
from athanor.tasks.trainer.records.journal import Journal
from athanor.tasks.trainer.records.metrics import ATTEMPT_VARIABLE
from athanor.tasks.trainer.records.retention import CHECKPOINTS, Retention
from athanor.tasks.trainer.records.throughput import Throughput
from athanor.tasks.trainer.start import read_spec, seed_everything, starting_model, token_bytes
from athanor.tasks.trainer.step.averaging import WeightAverage
from athanor.tasks.trainer.step.batches import ReadAhead, build_loader, held_out, note_smaller_slices, slice_tokens
from athanor.tasks.trainer.step.block_transforms import prepare_blocks
from athanor.tasks.trainer.step.held_out import evaluate
from athanor.tasks.trainer.step.step import Optimization
from athanor.tasks.trainer.train_recipe import SUMMARY, RunSpec

SCHEDULE = "schedule.json"
WORST_SAMPLES = 4  # of a bad step, noted with the documents they came from
LOCK = "trainer.lock"
LOCK_PATIENCE_S = 120.0  # an orphan of a killed flow needs this long to finish its step and save


def train(run_dir: Path, stop: StopRequest, running_s: float = 0.0) -> None:
    """Bring the run to its end: the portable checkpoint and the logs lie in `run_dir`.

    `running_s` is the age of the process, which the ledger charges too.

    Raises Preempted (state saved) when `stop` has a reason, UserError for what the user can mend.
    """
    spec, world = read_spec(run_dir), World.of_launcher()
    check_world(spec.runtime, spec.train, world)
    device = choose_device(spec.runtime.device, world.local_rank)
    world.meet(device)
    if world.size > 1:  # a rank on another machine was not told the attempt it belongs to
        os.environ[ATTEMPT_VARIABLE] = world.from_first(os.environ.get(ATTEMPT_VARIABLE, ""))
    with _exclusive(run_dir, stop, world), ExitStack() as cleanup:
        TrainingRun(run_dir, spec, stop, world, device, running_s, cleanup).finish()


@contextmanager
def _exclusive(run_dir: Path, stop: StopRequest, world: World) -> Iterator[None]:
    """Within: no other attempt is at work. The first rank sees to it, the others wait for its word."""
    if not world.first:
        world.from_first(None)
        yield
        return
    lock = FileLock(run_dir / LOCK)
    deadline = time.monotonic() + LOCK_PATIENCE_S
    while not lock.is_locked:
        try:
            lock.acquire(timeout=0.5)
        except Timeout:
            if (reason := stop.reason) is not None:
                raise Preempted(f"stopped while waiting for {run_dir / LOCK}: {reason}") from None
            if time.monotonic() > deadline:
                raise UserError(f"another trainer is at work in {run_dir}; stop it, or wait for it") from None
    try:
        world.from_first(None)
        yield
    finally:
        lock.release()


class TrainingRun:
    """One attempt at a run. `cleanup` closes what it opens."""

    def __init__(
        self,
        run_dir: Path,
        spec: RunSpec,
        stop: StopRequest,
        world: World,
        device: torch.device,
        running_s: float,
        cleanup: ExitStack,
    ):
        self._dir, self._spec, self._stop, self._world, self._device = run_dir, spec, stop, world, device
        runtime, recipe = spec.runtime, spec.train
        self._journal = Journal(run_dir, spec, world, running_s, cleanup)
        seed_everything(recipe.seed)
        if runtime.threads is not None:
            torch.set_num_threads(runtime.threads)
        precision = choose_precision(runtime.precision, self._device)
        self._autocast = torch.autocast(self._device.type, precision, enabled=precision != torch.float32)
        self._loader = build_loader(spec)
        self._held_out = held_out(spec)
        self._token_bytes_V = token_bytes(spec).to(self._device)
        model = starting_model(spec, self._device)
        model.begin_training(self._loader.sources)
        prepare_blocks(model, runtime)
        make_optimizer = partial(build_optimizer, recipe=recipe, device=device)
        self._engine = build_engine(model, make_optimizer, runtime, recipe, world, device, precision)
        self._model = model
        self._optimization = Optimization(
            self._engine,
            recipe.grad_clip,
            self._device,
            self._autocast,
            slice_tokens(run_dir, spec, device, world),
            self._say,
        )
        self._average = WeightAverage(model, self._engine.opened) if recipe.average_from is not None else None
        flops = {p.seq_len_tokens: flops_per_token(spec.model, p.seq_len_tokens) for p in recipe.phases}
        self._flops_per_token = {length: found.forward + found.backward for length, found in flops.items()}
        self._throughput = Throughput(recipe.batch_tokens, world.size * peak_flops(device))
        self._pace = Pace()

        retention = Retention(runtime.keep_checkpoints, recipe.guard.anchor_steps, runtime.permanent_every_steps)
        self._checkpoints = CheckpointFolder(
            run_dir / CHECKPOINTS, spec.key, self._loader.fingerprint, retention, world
        )
        self._position = Position(step=0, tokens=0)
        self._guard, self._course = Guard(recipe.guard), Course(recipe)
        if (found := self._checkpoints.newest(self._say)) is not None:
            self._position = self._load(found)
            self._guard = Guard.restored(recipe.guard, self._position.state["guard"])
            self._course = Course.restored(recipe, self._position.state["course"])
        self._saved_step, self._saved_at = self._position.step, time.monotonic()
        self._batches = ReadAhead(self._loader, recipe.steps, lambda step: world.slots(self._loader.batch_rows(step)))
        cleanup.callback(self._batches.close)
        self._journal.begin(self._position.step)
        if world.first:
            scheduled = model if spec.objective == "pretrain" else None
            write_json(run_dir / SCHEDULE, declared_schedule(recipe, self._loader, scheduled))

    def finish(self) -> None:
        """Train the remaining steps and write the portable checkpoint."""
        self._between_steps()
        self._pace.begin()
        while self._position.step < self._course.end:
            self._step()
            self._between_steps()
        if self._position.step == 0:
            raise UserError(
                f"the budget of {self._spec.runtime.budget_s:.0f} device seconds is spent before the first step; "
                "raise it and run again"
            )
        with self._delivered():
            weights = self._engine.weights()
            if self._world.first:
                write_portable(self._dir, self._spec.model, weights, Path(self._spec.tokenizer_dir))
        if self._world.first:
            write_json(self._dir / SUMMARY, self._summary())

    def _step(self) -> None:
        """Compute a step and learn from it, or pass it over if the guard says so."""
        recipe, step = self._spec.train, self._position.step
        step_key = int(hash64(recipe.seed, step)[0] >> np.uint64(1))
        batch = self._batches.batch(step)
        started = time.perf_counter()
        try:
            result = self._optimization.measure(batch, step_key)
        except torch.OutOfMemoryError:
            note_smaller_slices(self._dir, self._optimization.slice_tokens)
            raise
        self._position = Position(step + 1, self._position.tokens + recipe.batch_tokens)
        if (problem := self._guard.problem(result.loss, result.grad_norm)) is not None:
            self._pass_over(batch, step_key, problem)
            return
        lr = self._course.learning_rate(step)
        self._optimization.update(lr)
        computed_s = time.perf_counter() - started
        self._guard.accept(result.loss, result.grad_norm)
        if self._average is not None and self._course.progress(step) >= (recipe.average_from or 0.0):
            self._average.add()
        self._journal.step(
            step + 1,
            loss=result.loss,
            lr=lr,
            grad_norm=result.grad_norm,
            tokens=self._position.tokens,
            mix=self._loader.counts(step),
            ignored_rows=batch.ignored_rows,
            schedule=self._schedule(step),
            aux={**result.aux, **self._model.diagnostics()},
            **self._throughput.after(
                computed_s,
                self._pace.step_done(),
                self._course.end - step - 1,
                self._flops_per_token[batch.ids_BT.shape[1]],
            ),
        )
        self._model.after_step(result.loss)
        self._model.apply_schedule(self._schedule(step + 1))

    def _pass_over(self, batch: Batch, step_key: int, problem: str) -> None:
        """Learn nothing from a bad step, note what was in it, and go back if there were too many in a row."""
        step = self._position.step
        self._optimization.discard()
        self._say(f"skipped step {step}: {problem}")
        own = self._world.slots(self._loader.batch_rows(step - 1))
        losses = zip(own, self._optimization.row_losses(batch, step_key), strict=True)
        found = [pair for pairs in self._world.gather(list(losses)) for pair in pairs]
        found.sort(key=lambda pair: pair[1] if math.isfinite(pair[1]) else math.inf, reverse=True)
        for slot, loss in found[:WORST_SAMPLES]:
            self._journal.bad_sample(step, slot, loss, self._loader.describe(step - 1, slot))
        if self._guard.skip():
            self._roll_back(problem)
        self._model.apply_schedule(self._schedule(self._position.step))
        self._pace.step_done()

    def _roll_back(self, problem: str) -> None:
        """Weights of the last anchor before the bad steps; the data read since is left behind."""
        step, peak_lr = self._position.step, self._spec.train.peak_lr
        advice = f"lower peak_lr (now {peak_lr}) or lengthen warmup_steps (now {self._spec.train.warmup_steps})"
        anchor = self._checkpoints.anchor(step - self._guard.skipped_in_a_row, self._say)
        if anchor is None:
            raise UserError(f"training diverged at step {step} ({problem}) before the first checkpoint; {advice}")
        restored = self._load(anchor)
        if not self._guard.rolled_back(Guard.restored(self._spec.train.guard, restored.state["guard"])):
            raise UserError(
                f"training diverged at step {step} ({problem}) after {self._guard.rollbacks - 1} rollbacks; {advice}"
            )
        self._say(f"rolled back to the weights of step {restored.step}; going on with the data of step {step + 1}")

    def _load(self, checkpoint: Path) -> Position:
        tensors = self._tensors()
        position = self._checkpoints.load(checkpoint, tensors)
        self._engine.restore(tensors)
        if self._average is not None:
            self._average.count = position.state["averaged_steps"]
        return position

    def _tensors(self) -> dict[str, torch.Tensor]:
        return self._engine.tensors() | (self._average.tensors() if self._average is not None else {})

    def _schedule(self, step: int) -> dict[str, float]:
        """The model's scheduled values after `step` steps; fine-tuning keeps those pretraining ended with."""
        return self._model.schedule(self._course.progress(step) if self._spec.objective == "pretrain" else 1.0)

    def _between_steps(self) -> None:
        step, runtime = self._position.step, self._spec.runtime
        reason = next((reason for reason in self._world.gather(self._stop.reason) if reason is not None), None)
        if reason is not None:
            self._save()
            self._say(f"preempted: {reason}; run it again to continue from step {step}")
            raise Preempted(f"stopped at step {step}: {reason}")
        self._keep_to_budget()
        last = step == self._course.end
        evaluation_due = last or step % self._spec.train.eval_every_steps == 0
        if evaluation_due and not self._world.from_first(self._journal.evaluated(step)):
            self._evaluate()
        if evaluation_due and self._guard.should_cool_down(step, self._spec.train.steps):
            self._steer(self._course.cool_down(step), "the mean loss has risen: the learning rate falls from here")
        overdue = self._world.from_first(time.monotonic() - self._saved_at >= runtime.checkpoint_every_s)
        anchor = step % self._spec.train.guard.anchor_steps == 0 and step > 0
        if last or overdue or anchor or step % runtime.checkpoint_every_steps == 0:
            self._save()

    def _keep_to_budget(self) -> None:
        """Shorten the run if the device time that is left asks for it."""
        budget_s, step_s = self._spec.runtime.budget_s, self._pace.step_s
        if budget_s is None:
            return
        left_s = (budget_s - self._journal.device_s) / self._world.size
        step = self._position.step
        course = revised(self._course, step, left_s, step_s or 0.001, self._pace.closing_s)
        course = self._world.from_first(course)
        self._steer(course, f"{left_s:.0f} s of budget left: ends at step {course.end} of {self._spec.train.steps}")

    def _steer(self, course: Course, why: str) -> None:
        if course != self._course:
            self._course = course
            self._say(why)

    def _evaluate(self) -> None:
        def measure(model: LanguageModel) -> dict[str, dict[str, float]]:
            return {
                source: evaluate(model, batches, self._token_bytes_V, self._autocast, self._device)
                for source, batches in self._held_out.items()
            }

        started = time.monotonic()
        self._model.eval()
        with self._delivered() if self._position.step == self._course.end else nullcontext():
            held_out = self._engine.compute(measure)
        self._model.train()
        self._journal.evaluation(self._position.step, held_out)
        self._pace.evaluation(time.monotonic() - started)

    def _delivered(self) -> AbstractContextManager:
        """Within: the model has the weights that are handed on."""
        return self._average.applied() if self._average is not None else nullcontext()

    def _save(self) -> None:
        step = self._position.step
        if step == self._saved_step:
            return
        started = time.monotonic()
        self._journal.sync()
        state = {
            "guard": self._guard.state(),
            "course": self._course.state(),
            "averaged_steps": self._average.count if self._average is not None else 0,
        }
        self._checkpoints.save(self._tensors(), Position(step, self._position.tokens, state))
        self._saved_step, self._saved_at = step, time.monotonic()
        self._pace.save(self._saved_at - started)

    def _summary(self) -> dict[str, Any]:
        course = self._course
        return {
            "planned_steps": self._spec.train.steps,
            "steps": self._position.step,
            "cuts": [{"at_step": step, "end": end} for step, end in course.cuts],
            "decay_from": course.decay_from,
            "rollbacks": self._guard.rollbacks,
            "averaged_steps": self._average.count if self._average is not None else 0,
        }

    def _say(self, message: str) -> None:
        self._journal.say(self._position.step, message)

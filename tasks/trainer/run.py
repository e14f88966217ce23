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
from contextlib import ExitStack, nullcontext
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch

from athanor.core.disk import write_json
from athanor.core.errors import UserError
from athanor.core.numbers import duration
from athanor.core.run_files import CHECKPOINTS, SCHEDULE, SUMMARY
from athanor.data.epochs import epochs_text
from athanor.data.loader import Batch
from athanor.data.permutation import hash64
from athanor.models.attending import attention_backends
from athanor.models.checkpoints.portable import write_portable
from athanor.models.device import choose_device, choose_precision, peak_flops, set_up
from athanor.tasks.trainer.course.course import Course
from athanor.tasks.trainer.course.declaration import declared_schedule
from athanor.tasks.trainer.course.guard import Guard
from athanor.tasks.trainer.course.pace import Pace, revised
from athanor.tasks.trainer.engines.build import build_engine, check_world
from athanor.tasks.trainer.observers.everyone import Everyone
from athanor.tasks.trainer.observers.kind import Scene
from athanor.tasks.trainer.optimizers.build import build_optimizer
from athanor.tasks.trainer.optimizers.kind import OPTIMIZERS
from athanor.tasks.trainer.process.exclusive import exclusive
from athanor.tasks.trainer.process.exit_codes import Preempted
from athanor.tasks.trainer.process.grace import Grace
from athanor.tasks.trainer.process.stop_check import StopAsked, StopCheck
from athanor.tasks.trainer.process.stop_request import StopRequest
from athanor.tasks.trainer.process.world import World
from athanor.tasks.trainer.records.checkpoint import CheckpointFolder, Position
from athanor.tasks.trainer.records.journal import Journal
from athanor.tasks.trainer.records.metrics import ATTEMPT_VARIABLE
from athanor.tasks.trainer.records.retention import Retention
from athanor.tasks.trainer.records.throughput import Throughput
from athanor.tasks.trainer.start import read_spec, seed_everything, starting_model
from athanor.tasks.trainer.step.batches import (
    ReadAhead,
    build_loader,
    evaluation_rows,
    note_smaller_slices,
    slice_tokens,
)
from athanor.tasks.trainer.step.block_transforms import prepare_blocks
from athanor.tasks.trainer.step.held_out import HeldOutText
from athanor.tasks.trainer.step.step import Optimization
from athanor.tasks.trainer.train_recipe import RunSpec

WORST_SAMPLES = 4  # of a bad step, noted with the documents they came from


def train(run_dir: Path, stop: StopRequest, running_s: float = 0.0) -> None:
    """Bring the run to its end: the portable checkpoint and the logs lie in `run_dir`.

    `running_s` is the age of the attempt, which the ledger charges too.

    Raises Preempted (state saved) when `stop` has a reason, UserError for what the user can mend.
    """
    spec, world = read_spec(run_dir), World.of_launcher()
    check_world(spec.runtime, spec.train, world)
    device = choose_device(spec.runtime.device, world.local_rank)
    world.meet(device)
    if world.size > 1:  # a rank on another machine was not told the attempt it belongs to
        os.environ[ATTEMPT_VARIABLE] = world.from_first(os.environ.get(ATTEMPT_VARIABLE, ""))
    with exclusive(run_dir, stop, world), ExitStack() as cleanup:
        TrainingRun(run_dir, spec, stop, world, device, running_s, cleanup).finish()


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
        self._dir, self._spec, self._world = run_dir, spec, world
        self._stop_check, self._grace = StopCheck(stop, world), Grace(run_dir)
        runtime, recipe = spec.runtime, spec.train
        self._devices = runtime.devices(device.type)
        self._journal = Journal(run_dir, spec, world, self._devices, running_s, cleanup)
        seed_everything(recipe.seed)
        set_up(runtime)
        precision = choose_precision(runtime.precision, device)
        autocast = torch.autocast(device.type, precision, enabled=precision != torch.float32)
        self._loader = build_loader(spec)
        tokens_at_once = slice_tokens(run_dir, spec, device, world)
        self._held_out = HeldOutText(spec, evaluation_rows(spec, tokens_at_once, device), device, autocast)
        model = starting_model(spec, device)
        model.begin_training(self._loader.sources)
        prepare_blocks(model, runtime)
        make_optimizer = partial(build_optimizer, recipe=recipe, device=device)
        self._engine = build_engine(model, make_optimizer, runtime, recipe.grad_clip, world, device, precision)
        self._model = model
        self._optimization = Optimization(
            self._engine,
            recipe.grad_clip,
            device,
            autocast,
            tokens_at_once,
            OPTIMIZERS[recipe.optimizer].after_update,
            self._say,
            self._stop_check.within_step,
        )
        self._observers = Everyone(Scene(run_dir, spec, self._engine, self._say))
        self._throughput = Throughput(spec.model, recipe, world.size * peak_flops(device))
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
        self._journal.begin(self._position.step, self._observers.row)
        cleanup.callback(self._observers.close)
        self._observers.begin(self._position.step)
        if self._position.step == 0:
            self._say(epochs_text(self._loader.epochs()))
            self._say(str(self._held_out))
            if device.type != "cpu":  # where there is a choice
                self._say(f"attention: {attention_backends(model, device, precision)}")
        if world.first:
            scheduled = model if spec.init_dir is None else None
            write_json(run_dir / SCHEDULE, declared_schedule(recipe, self._loader, scheduled))

    def finish(self) -> None:
        """Train the remaining steps and write the portable checkpoint."""
        try:
            self._between_steps()
            self._pace.begin()
            while self._position.step < self._course.end:
                self._step()
                self._between_steps()
        except StopAsked as stop:
            self._preempted(str(stop))
        if self._position.step == 0:
            raise UserError(
                f"the budget of {self._spec.runtime.budget_s:.0f} device seconds is spent before the first step; "
                "raise it and run again"
            )
        with self._observers.delivering():
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
        self._observers.learned(step, self._course.progress(step))
        self._journal.step(
            step + 1,
            loss=result.loss,
            lr=lr,
            grad_norm=result.grad_norm,
            tokens=self._position.tokens,
            mix=self._loader.counts(step),
            ignored_rows=batch.ignored_rows,
            schedule=self._schedule(step),
            aux={**result.aux, **self._model.diagnostics(result.means)},
            **self._throughput.after(
                computed_s,
                self._pace.step_done(),
                self._course.end - step - 1,
                batch.ids_BT.shape[1],
            ),
        )
        self._note_grace()
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
        self._observers.restore(position.state)
        return position

    def _tensors(self) -> dict[str, torch.Tensor]:
        return self._engine.tensors() | self._observers.tensors()

    def _schedule(self, step: int) -> dict[str, float]:
        """The model's scheduled values after `step` steps; what starts from a checkpoint keeps those it ended with."""
        return self._model.schedule(self._course.progress(step) if self._spec.init_dir is None else 1.0)

    def _between_steps(self) -> None:
        step, runtime = self._position.step, self._spec.runtime
        self._stop_check.between_steps()
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

    def _note_grace(self) -> None:
        if self._world.first:
            self._grace.measured(self._stop_check.slowest_s, self._pace.slowest_save_s)

    def _preempted(self, reason: str) -> NoReturn:
        """Save the run as its last step left it; what was measured since is forgotten."""
        step = self._position.step
        self._optimization.discard()
        self._save()
        self._say(f"preempted: {reason}; run it again to continue from step {step}")
        raise Preempted(f"stopped at step {step}: {reason}")

    def _keep_to_budget(self) -> None:
        """Shorten the run if the device time that is left asks for it."""
        budget_s, step_s = self._spec.runtime.budget_s, self._pace.step_s
        if budget_s is None:
            return
        left_s = (budget_s - self._journal.device_s) / self._devices
        step = self._position.step
        course = revised(self._course, step, left_s, step_s or 0.001, self._pace.closing_s)
        course = self._world.from_first(course)
        self._steer(course, f"{duration(left_s)} of budget left: ends at step {course.end} of {self._spec.train.steps}")

    def _steer(self, course: Course, why: str) -> None:
        if course != self._course:
            self._course = course
            self._say(why)

    def _evaluate(self) -> None:
        step, started = self._position.step, time.monotonic()
        with self._observers.delivering() if step == self._course.end else nullcontext():
            held_out = self._held_out.measure(self._engine, self._stop_check.within_step)
        self._journal.evaluation(step, held_out)
        self._observers.evaluated(step, held_out)
        self._pace.evaluation(time.monotonic() - started)

    def _save(self) -> None:
        step = self._position.step
        if step == self._saved_step:
            return
        started = time.monotonic()
        self._journal.sync()
        state = {"guard": self._guard.state(), "course": self._course.state(), **self._observers.state()}
        self._checkpoints.save(self._tensors(), Position(step, self._position.tokens, state))
        self._saved_step, self._saved_at = step, time.monotonic()
        self._pace.save(self._saved_at - started)
        self._note_grace()

    def _summary(self) -> dict[str, Any]:
        course = self._course
        return {
            "planned_steps": self._spec.train.steps,
            "steps": self._position.step,
            "cuts": [{"at_step": step, "end": end} for step, end in course.cuts],
            "decay_from": course.decay_from,
            "rollbacks": self._guard.rollbacks,
            **self._observers.summary(),
        }

    def _say(self, message: str) -> None:
        self._journal.say(self._position.step, message)

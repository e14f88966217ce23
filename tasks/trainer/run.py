"""A training run: from `run.json` to the portable checkpoint, continuing from whatever an earlier attempt left.

Between two steps, in this order: the reasons to stop, the evaluation if one is due, the checkpoint if one is due. A
checkpoint is committed after the rows before it are on the disk. Every number in the log but times and money is a
function of `run.json` and the data it names, however often the run was interrupted.
"""

from __future__ import annotations

import os
import random
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
import torch
from filelock import FileLock, Timeout
from pydantic import ValidationError

from data.errors import UserError
from data.loader import Batch
from data.permutation import hash64
from models.build import build_model
from models.counts import flops_per_token
from models.device import choose_device, choose_precision, peak_flops
from models.portable import load_portable, save_portable
from models.skeleton import LanguageModel
from tasks.trainer.batches import build_loader, held_out, read_ahead
from tasks.trainer.checkpoint import CheckpointFolder, Position, training_tensors
from tasks.trainer.config import RunSpec
from tasks.trainer.exits import Preempted
from tasks.trainer.held_out import evaluate
from tasks.trainer.ledger import Ledger
from tasks.trainer.metrics import ATTEMPT_VARIABLE, Console, Heartbeat, MetricsLog
from tasks.trainer.rows import Row
from tasks.trainer.schedules import learning_rate
from tasks.trainer.step import Optimization
from tasks.trainer.stopping import StopRequest
from tasks.trainer.throughput import Throughput
from tasks.trainer.wandb_sink import WandbSink

SPEC = "run.json"
CHECKPOINTS = "checkpoints"
LOCK = "trainer.lock"
LOCK_PATIENCE_S = 120.0  # an orphan of a killed flow needs this long to finish its step and save


def read_spec(run_dir: Path) -> RunSpec:
    """The run's description. Raises UserError when `run.json` is missing or not valid."""
    path = run_dir / SPEC
    try:
        return RunSpec.model_validate_json(path.read_text())
    except FileNotFoundError:
        raise UserError(f"{path} does not exist; give the folder of a run") from None
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        raise UserError(f"{path}: {field or 'content'}: {first['msg']}") from None


def train(run_dir: Path, stop: StopRequest) -> None:
    """Bring the run to its end: the portable checkpoint and the logs lie in `run_dir`.

    Raises Preempted (state saved) when `stop` has a reason, UserError for what the user can mend.
    """
    spec = read_spec(run_dir)
    with _exclusive(run_dir, stop), ExitStack() as cleanup:
        TrainingRun(run_dir, spec, stop, cleanup).finish()


@contextmanager
def _exclusive(run_dir: Path, stop: StopRequest) -> Iterator[None]:
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
        yield
    finally:
        lock.release()


class TrainingRun:
    """One attempt at a run. `cleanup` closes what it opens."""

    def __init__(self, run_dir: Path, spec: RunSpec, stop: StopRequest, cleanup: ExitStack):
        self._dir, self._spec, self._stop = run_dir, spec, stop
        runtime, recipe = spec.runtime, spec.train
        attempt = os.environ.get(ATTEMPT_VARIABLE) or uuid.uuid4().hex[:12]
        self._ledger = Ledger(run_dir, attempt, devices=1, price_usd_per_hour=runtime.price_usd_per_hour)
        cleanup.callback(self._ledger.close)

        _seed_everything(recipe.seed)
        if runtime.threads is not None:
            torch.set_num_threads(runtime.threads)
        self._device = choose_device(runtime.device)
        precision = choose_precision(runtime.precision, self._device)
        self._autocast = torch.autocast(self._device.type, precision, enabled=precision != torch.float32)
        self._loader = build_loader(spec)
        self._held_out = held_out(spec)
        self._model = _starting_model(spec, self._device)
        self._model.begin_training(self._loader.sources)
        self._token_bytes_V = _token_bytes(spec).to(self._device)
        self._optimization = Optimization(
            self._model, recipe, self._device, self._autocast, runtime.micro_batch_rows, self._say
        )
        flops = flops_per_token(spec.model, recipe.seq_len_tokens)
        self._throughput = Throughput(recipe.batch_tokens, flops.forward + flops.backward, peak_flops(self._device))

        self._checkpoints = CheckpointFolder(
            run_dir / CHECKPOINTS, spec.key, self._loader.fingerprint, runtime.keep_checkpoints
        )
        damage: list[str] = []
        self._position = self._resume(damage)
        self._saved_step, self._saved_at = self._position.step, time.monotonic()
        self._heartbeat = Heartbeat(run_dir)
        self._listeners: list[Callable[[Row], None]] = [Console(recipe.steps)]
        self._log = MetricsLog(run_dir, self._position.step, attempt, self._listeners)
        cleanup.callback(self._log.close)
        for message in damage:
            self._say(message)
        if runtime.wandb != "off":
            wandb = WandbSink(spec, run_dir, self._say)
            cleanup.callback(wandb.close)
            self._listeners.append(wandb)
        self._ledger.tick(force=True)

    def finish(self) -> None:
        """Train the remaining steps and write the portable checkpoint."""
        recipe = self._spec.train
        batches = read_ahead(self._loader, self._position.step, recipe.steps, recipe.batch_rows)
        while True:
            self._between_steps()
            if self._position.step == recipe.steps:
                break
            self._step(batches)
        save_portable(self._dir, self._model, Path(self._spec.tokenizer_dir))

    def _resume(self, damage: list[str]) -> Position:
        found = self._checkpoints.newest(damage.append)
        if found is None:
            return Position(step=0, tokens=0)
        return self._checkpoints.load(found, training_tensors(self._model, self._optimization.optimizer))

    def _step(self, batches: Iterator[Batch]) -> None:
        recipe, step = self._spec.train, self._position.step
        started = time.perf_counter()
        lr = learning_rate(recipe, step)
        self._model.begin_step(int(hash64(recipe.seed, step)[0] >> np.uint64(1)))
        result = self._optimization.step(next(batches), lr)
        self._position = Position(step + 1, self._position.tokens + recipe.batch_tokens)
        self._log.step(
            step + 1,
            loss=result.loss,
            lr=lr,
            grad_norm=result.grad_norm,
            tokens=self._position.tokens,
            mix=self._loader.counts(step),
            schedule=self._schedule(step),
            aux={**result.aux, **self._model.diagnostics()},
            cost_usd=self._ledger.usd,
            **self._throughput.after(time.perf_counter() - started, recipe.steps - step - 1),
        )
        self._model.after_step(result.loss)
        self._model.apply_schedule(self._schedule(step + 1))
        self._ledger.tick()
        self._heartbeat.beat(step + 1)

    def _schedule(self, step: int) -> dict[str, float]:
        """The model's scheduled values after `step` steps; fine-tuning keeps those pretraining ended with."""
        return self._model.schedule(step / self._spec.train.steps if self._spec.objective == "pretrain" else 1.0)

    def _between_steps(self) -> None:
        step, runtime = self._position.step, self._spec.runtime
        if (reason := self._stop.reason) is not None:
            self._save()
            self._say(f"preempted: {reason}; run it again to continue from step {step}")
            raise Preempted(f"stopped at step {step}: {reason}")
        last = step == self._spec.train.steps
        if (last or step % self._spec.train.eval_every_steps == 0) and not self._log.evaluated(step):
            self._evaluate()
        overdue = time.monotonic() - self._saved_at >= runtime.checkpoint_every_s
        if last or overdue or step % runtime.checkpoint_every_steps == 0:
            self._save()

    def _evaluate(self) -> None:
        self._model.eval()
        held_out = {
            source: evaluate(self._model, batches, self._token_bytes_V, self._autocast, self._device)
            for source, batches in self._held_out.items()
        }
        self._model.train()
        self._log.evaluation(self._position.step, held_out)

    def _save(self) -> None:
        if self._position.step == self._saved_step:
            return
        self._log.sync()
        tensors = training_tensors(self._model, self._optimization.optimizer)
        self._checkpoints.save(tensors, self._position)
        self._saved_step, self._saved_at = self._position.step, time.monotonic()

    def _say(self, message: str) -> None:
        self._log.event(self._position.step, message)


def _seed_everything(seed: int) -> None:
    """Fix the global generators; the models draw from none of them, a library might."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def _starting_model(spec: RunSpec, device: torch.device) -> LanguageModel:
    if spec.objective == "pretrain":
        with torch.device(device):
            model = build_model(spec.model)
        model.init_weights(spec.train.seed)
        return model.train()
    if spec.init_dir is None:
        raise UserError("run.json: objective=sft needs `init_dir`, a portable checkpoint to start from; got none")
    model = load_portable(Path(spec.init_dir), device)
    if model.recipe != spec.model:
        raise UserError(f"run.json: model is not the model of init_dir={spec.init_dir}; copy its config.json")
    model.apply_schedule(model.schedule(1.0))
    return model.train()


def _token_bytes(spec: RunSpec) -> torch.Tensor:
    """UTF-8 bytes of each id, int64 [V]."""
    path = Path(spec.tokenizer_dir) / "token_bytes.npy"
    if not path.is_file():
        raise UserError(f"{path} does not exist; build the tokenizer again")
    bytes_V = np.load(path, allow_pickle=False)
    if spec.model.vocab_size is None or len(bytes_V) > spec.model.vocab_size:
        raise UserError(
            f"run.json: model.vocab_size={spec.model.vocab_size} is too small for the tokenizer in "
            f"{spec.tokenizer_dir}, which has {len(bytes_V)} ids"
        )
    return torch.from_numpy(bytes_V).long()

"""A preset's training step on a named GPU, counted from what it launches there (models/roofline.py)."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from athanor.core.errors import UserError
from athanor.flows.plan.estimate import Estimator
from athanor.flows.plan.machine import rented_machine
from athanor.flows.plan.survey import Survey
from athanor.models.device import GPUS, gpu_of
from athanor.models.roofline import ASSUMED, Roofline
from athanor.tasks.preset_recipe import Preset
from athanor.tasks.trainer.step.micro_batch import roofline_of


@dataclass(frozen=True)
class CountedStep:
    """A step of `tokens` on `ranks` GPUs: each goes through `micro_batches` of `rows` rows, all like `micro_batch`."""

    preset: str
    gpu: str
    ranks: int
    tokens: int
    rows: int
    seq_len_tokens: int
    micro_batches: int
    micro_batch: Roofline

    @property
    def time_s(self) -> float:
        """Of a step, without the optimizer's update and what ranks tell each other."""
        return self.micro_batches * self.micro_batch.time_s

    @property
    def tokens_per_s(self) -> float:
        """Of all ranks."""
        return self.tokens / self.time_s

    def json(self) -> dict[str, Any]:
        """All of it as plain values, with what was assumed."""
        return {
            **asdict(self),
            "step_s": self.time_s,
            "tokens_per_s": self.tokens_per_s,
            "assumed": asdict(ASSUMED),
            "data_sheet": gpu._asdict() if (gpu := gpu_of(self.gpu)) is not None else None,
        }


def counted_step(preset: Preset, gpu_name: str) -> CountedStep:
    """A step of the preset's first training. UserError for a GPU whose data sheet is not known, for a preset without
    training, and while the size of the vocabulary is unknown."""
    machine, gpu = rented_machine(gpu_name, preset.runtime), gpu_of(gpu_name)
    if gpu is None:
        raise UserError(f"--on {gpu_name}: its memory's bandwidth is not known; there are {', '.join(GPUS)}")
    train = next(iter(preset.trainings.values()), None)
    if train is None:
        raise UserError(f"{preset.name} trains nothing: name a preset with a training")
    estimator = Estimator(Survey(preset), machine, timing=False)
    if estimator.model is None:
        raise UserError(f"{preset.name}: model.vocab_size is unknown until its tokenizer is built; set it")
    rows, runtime = estimator.micro_batch_rows(train), preset.runtime
    return CountedStep(
        preset.name,
        gpu_name,
        runtime.world_size,
        train.batch_tokens,
        rows,
        train.seq_len_tokens,
        -(-train.batch_rows // (runtime.world_size * rows)),
        roofline_of(estimator.model, runtime, gpu, rows, train.seq_len_tokens),
    )

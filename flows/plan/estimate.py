"""What each stage still to be built costs: seconds, money, bytes on disk and in memory.

What a stage takes in units of no machine is its own to say (tasks/cost.py). Training is counted exactly and divided by
a rate (flows/plan/training_rate.py). Other stages take what the newest artifact of the same stage and label took,
for as much text; without one, what their costs assume, and the plan says `assumed`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, assert_never

from athanor.core.store import Artifact
from athanor.flows.plan.machine import Machine
from athanor.flows.plan.survey import StageSurvey, Survey
from athanor.flows.plan.training_rate import Rate, training_rate
from athanor.models.build import build_on_meta
from athanor.models.counts import Flops, flops_per_token, parameter_counts
from athanor.models.memory import StepMemory
from athanor.models.model_recipe import ModelRecipe
from athanor.tasks.cost import STARTUP_S, Cost, TrainingCost
from athanor.tasks.make_tokenizer import vocabulary_size
from athanor.tasks.trainer.optimizers.memory import optimizer_bytes_per_parameter
from athanor.tasks.trainer.records.retention import Retention
from athanor.tasks.trainer.step.micro_batch import attention_on_gpus, memory_of, micro_batch_rows
from athanor.tasks.trainer.train_recipe import TrainRecipe
from athanor.tasks.training import resolve_model

ALIKE_LENGTH = 3.0  # texts, the one through the other, at most, for one to say how long the other takes
WEIGHT_BYTES = 4  # of a parameter, in training and in every checkpoint


@dataclass(frozen=True)
class Estimate:
    """Of one stage: None where it cannot be known yet, `source` says how the time is known."""

    wall_s: float | None
    source: str
    disk_bytes: float = 0.0


@dataclass(frozen=True)
class TrainingEstimate(Estimate):
    """Of a training stage; `step_s` is one optimizer step, `tokens` and `flops` are those of all `steps`."""

    steps: int = 0
    steps_left: int = 0
    step_s: float | None = None
    tokens: int = 0
    flops: float = 0.0


class Estimator:
    """Estimates for one survey on one machine. Facts of artifacts that are built replace assumptions.

    Without `timing` nothing is timed here, which takes seconds: what only that would tell stays unknown.
    """

    def __init__(self, survey: Survey, machine: Machine, timing: bool = True):
        self.survey, self.machine, self.preset, self.timing = survey, machine, survey.preset, timing
        self._store = survey.store

    @cached_property
    def model(self) -> ModelRecipe | None:
        """The model with its vocabulary; None until the tokenizer that decides it is built. UserError if it is too
        small for the tokenizer."""
        recipe, tokenizer = self.preset.model.recipe, self.survey.one("tokenizer")
        if self._whole(tokenizer):
            return resolve_model(recipe, tokenizer.facts["vocab_size"])
        asked = self.preset.tokenizer
        if asked.path is not None:
            return resolve_model(recipe, vocabulary_size(asked.path))
        chosen = recipe.vocab_size or (asked.vocab_size if asked.hub is None else None)
        return None if chosen is None else recipe.model_copy(update={"vocab_size": chosen})

    @cached_property
    def parameters(self) -> dict[str, int] | None:
        """`total`, `active` and parts; None while the vocabulary is unknown."""
        return parameter_counts(self.model) if self.model is not None else None

    def memory(self) -> tuple[int, StepMemory] | None:
        """Micro-batch rows and peak bytes of a step of the first training on one rank; None while it cannot be counted,
        or without any."""
        train = next(iter(self.preset.trainings.values()), None)
        if self.model is None or train is None:
            return None
        rows = self.micro_batch_rows(train)
        return rows, memory_of(self.model, train, self.preset.runtime, self.machine.device_type, rows)

    def attention(self) -> str | None:
        """How the layers attend in training on a GPU; None elsewhere, or while the model is not known."""
        if self.model is None or self.machine.device_type != "cuda":
            return None
        return attention_on_gpus(self.model, self.preset.runtime)

    def micro_batch_rows(self, train: TrainRecipe) -> int:
        """Rows that go forward and backward at once on a rank; the vocabulary must be known."""
        assert self.model is not None
        machine, runtime = self.machine, self.preset.runtime
        most_rows = max(1, train.batch_rows // runtime.world_size)
        return micro_batch_rows(self.model, train, runtime, machine.device_type, machine.memory_bytes, most_rows)

    def _optimizer_bytes(self, train: TrainRecipe) -> float:
        assert self.model is not None
        return optimizer_bytes_per_parameter(train, build_on_meta(self.model))

    def flops(self, row_tokens: int) -> Flops | None:
        """Of one token in rows of that length; None while the vocabulary is unknown."""
        return flops_per_token(self.model, row_tokens) if self.model is not None else None

    def estimate(self, stage: StageSurvey) -> Estimate:
        """What building `stage` from its present state costs; nothing if it is cached."""
        if stage.state == "cached":
            return Estimate(0.0, "cached")
        match self.cost(stage.artifact):
            case TrainingCost() as training:
                return self._training(stage, training)
            case Cost() as cost:
                assumed = self._assumed(cost)
                if (before := self._before(stage, cost)) is not None:
                    return replace(assumed, wall_s=before, source="measured before")
                return assumed
            case other:
                assert_never(other)

    def cost(self, artifact: Artifact) -> Cost | TrainingCost:
        """What its stage says of an artifact; of a text that is built, as long as it is."""
        return self._cost(artifact, {})

    def _cost(self, artifact: Artifact, known: dict[str, Cost | TrainingCost]) -> Cost | TrainingCost:
        if artifact.key not in known:
            found = self.survey.surveyed(artifact)
            inputs = {
                name: self._cost(given, known)
                if isinstance(given, Artifact)
                else {member: self._cost(one, known) for member, one in given.items()}
                for name, given in found.wanted.inputs.items()
            }
            cost = found.record.cost(found.wanted.recipe, self.preset, **inputs)
            if isinstance(cost, Cost) and self._whole(artifact):
                cost = replace(cost, text_bytes=artifact.facts.get("text_bytes", cost.text_bytes))
            known[artifact.key] = cost
        return known[artifact.key]

    def _training(self, stage: StageSurvey, cost: TrainingCost) -> TrainingEstimate:
        train = cost.train
        left = train.steps - stage.step
        flops = self.flops(train.seq_len_tokens)
        if flops is None or self.model is None or self.parameters is None:
            return TrainingEstimate(
                None,
                f"unknown until {self.survey.one('tokenizer').name} is built",
                steps=train.steps,
                steps_left=left,
                tokens=train.steps * train.batch_tokens,
            )
        whole, rest = self._training_flops(train, 0), self._training_flops(train, stage.step)
        rate = self.rate(stage.stage, train.seq_len_tokens)
        evaluations = (left // train.eval_every_steps + 2) * cost.held_out_sources
        held_out = evaluations * train.eval_tokens * flops.forward * self.machine.devices  # each measures it whole
        return TrainingEstimate(
            wall_s=(rest + held_out) / rate.flops_per_s + STARTUP_S if rate is not None else None,
            source=rate.source if rate is not None else f"unknown: {self.machine.name} has no known speed",
            disk_bytes=self._checkpoint_bytes(train),
            steps=train.steps,
            steps_left=left,
            step_s=rest / max(1, left) / rate.flops_per_s if rate is not None else None,
            tokens=train.steps * train.batch_tokens,
            flops=whole,
        )

    def _training_flops(self, train: TrainRecipe, first_step: int) -> float:
        """FLOPs of the steps from `first_step` on, each phase with its own length of rows."""
        assert self.model is not None
        total = 0.0
        ends = [*(phase.first_step for phase in train.phases[1:]), train.steps]
        for phase, end in zip(train.phases, ends, strict=True):
            flops = flops_per_token(self.model, phase.seq_len_tokens)
            steps = max(0, end - max(first_step, phase.first_step))
            total += steps * train.batch_tokens * (flops.forward + flops.backward)
        return total

    def _checkpoint_bytes(self, train: TrainRecipe) -> float:
        """Bytes on disk at the end: the checkpoints kept, one being written, and the portable one."""
        assert self.parameters is not None
        runtime = self.preset.runtime
        retention = Retention(runtime.keep_checkpoints, train.guard.anchor_steps, runtime.permanent_every_steps)
        kept = len(retention.of(list(range(1, train.steps + 1)))) + 1
        return self.parameters["total"] * (kept * (WEIGHT_BYTES + self._optimizer_bytes(train)) + WEIGHT_BYTES)

    def rate(self, stage: str, row_tokens: int) -> Rate | None:
        """Training speed of the preset's model; worked out once per stage."""
        if stage not in self._rates and self.model is not None and (flops := self.flops(row_tokens)) is not None:
            runtime, train = self.preset.runtime, self.preset.trainings.get(stage)

            def rows() -> int:
                return runtime.eval_batch_rows if train is None else self.micro_batch_rows(train)

            asked = (self._store, stage, self.model, flops, row_tokens, self.machine, runtime)
            self._rates[stage] = training_rate(*asked, rows, self.timing)
        return self._rates.get(stage)

    @cached_property
    def _rates(self) -> dict[str, Rate | None]:
        return {}

    def _before(self, stage: StageSurvey, cost: Cost) -> float | None:
        """Seconds the newest whole artifact of the same stage and label took; of a text, for as much of it as now, if
        it was about as long: what a short one took is mostly starting."""
        alike = [
            (artifact.manifest, scale)
            for artifact in self._store.artifacts()
            if (artifact.stage, artifact.label) == (stage.stage, stage.artifact.label)
            and self._whole(artifact)
            and 1 / ALIKE_LENGTH <= (scale := _scale(cost, artifact.manifest["facts"])) <= ALIKE_LENGTH
        ]
        if not alike:
            return None
        newest, scale = max(alike, key=lambda found: found[0]["created"])
        return newest["wall_s"] * scale

    def _assumed(self, cost: Cost) -> Estimate:
        if cost.wall_s is None:
            return Estimate(None, cost.unknown)
        if not cost.forward_tokens:
            return Estimate(cost.wall_s, "assumed", cost.disk_bytes)
        row_tokens = self.preset.row_tokens
        flops, rate = self.flops(row_tokens), self.rate("pretrain", row_tokens)
        if flops is None or rate is None:
            return Estimate(None, "unknown, as the model's speed is", cost.disk_bytes)
        forward_s = cost.forward_tokens * flops.forward / (rate.flops_per_s / self.machine.devices)  # one computes
        return Estimate(forward_s + cost.wall_s, "assumed", cost.disk_bytes)

    def _whole(self, artifact: Artifact) -> bool:
        return self._store.problem(artifact) is None


def _scale(cost: Cost, facts: Mapping[str, Any]) -> float:
    """How much more text there is to read now than an artifact of these facts has; 1 where that is not known."""
    read_bytes = sum(value for name, value in facts.items() if name.endswith("text_bytes"))
    return cost.text_bytes / read_bytes if cost.text_bytes and read_bytes else 1.0


def known_s(estimates: Iterable[Estimate]) -> float:
    """Sum of the times that are known."""
    return sum(estimate.wall_s or 0.0 for estimate in estimates)

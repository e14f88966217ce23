"""What each stage still to be built costs: tokens, FLOPs, seconds, money, bytes on disk and in memory.

Training is counted exactly and divided by a rate (flows/plan/training_rate.py). Other stages take what the newest
artifact of the same stage and label took; without one, rough rates that stand here, and the plan says `assumed`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from athanor.core.errors import UserError
from athanor.core.store import Artifact
from athanor.data.data_recipe import ORIGINS, SourceRecipe
from athanor.data.tokenizer import tokenizer_file
from athanor.flows.plan.machine import Machine
from athanor.flows.plan.survey import StageSurvey, Survey
from athanor.flows.plan.training_rate import Rate, training_rate
from athanor.models.build import build_on_meta
from athanor.models.counts import Flops, flops_per_token, parameter_counts
from athanor.models.memory import StepMemory
from athanor.models.model_recipe import ModelRecipe
from athanor.tasks.benchmarks.local import local_names
from athanor.tasks.stage_recipes import EvalTaskRecipe
from athanor.tasks.trainer.optimizers.memory import optimizer_bytes_per_parameter
from athanor.tasks.trainer.records.retention import Retention
from athanor.tasks.trainer.step.micro_batch import memory_of, micro_batch_rows
from athanor.tasks.trainer.train_recipe import TrainRecipe
from athanor.tasks.training import resolve_model

READ_BYTES_PER_S = {"hub": 10e6, "path": 40e6, "builtin": 4e6}  # acquire, of text
TOKENIZE_BYTES_PER_S = 3e6  # of text
TRAIN_TOKENIZER_BYTES_PER_S = 1e6  # of text
BYTES_PER_TOKEN = 4.0
DOCUMENT_BYTES = {"builtin": 200, "hub": 4000, "path": 4000}  # where max_documents bounds a source
UNBOUNDED_TEXT_BYTES = 4e6  # of built-in text without max_bytes
BENCHMARK_DOCUMENTS = 1500  # of a benchmark without limit
PROMPT_TOKENS, ANSWER_TOKENS = 1000, 256  # of lm-eval's benchmarks, examples included
LOCAL_PROMPT_TOKENS, LOCAL_ANSWER_TOKENS = 60, 64  # of those in tasks/benchmarks
LAYER_STEP_S = 1e-3  # a layer of a decoding step costs so much however small it is
PROBING_SLOWDOWN = 3.0  # measuring maps, against a forward pass
STARTUP_S = 10.0  # importing, loading a model
WEIGHT_BYTES = 4  # of a parameter, in training and in every checkpoint
DOCUMENTS_SHARE, SHARDS_SHARE = 0.4, 1.0  # bytes on disk for a byte of text


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
        recipe, tokenizer = self.preset.model, self.preset.tokenizer
        if self._whole(self.survey.tokenizer):
            return resolve_model(recipe, self.survey.tokenizer)
        if tokenizer.path is not None:
            size = _vocabulary(tokenizer.path)
            if recipe.vocab_size is not None and recipe.vocab_size < size:
                raise UserError(f"model.vocab_size={recipe.vocab_size} is smaller than the tokenizer's {size} ids")
        else:
            size = tokenizer.vocab_size if tokenizer.hub is None else None
        chosen = recipe.vocab_size or size
        return None if chosen is None else recipe.model_copy(update={"vocab_size": chosen})

    @cached_property
    def parameters(self) -> dict[str, int] | None:
        """`total`, `active` and parts; None while the vocabulary is unknown."""
        return parameter_counts(self.model) if self.model is not None else None

    def memory(self) -> tuple[int, StepMemory] | None:
        """Micro-batch rows and peak bytes of a pretraining step on this machine; None while it cannot be counted."""
        if self.model is None:
            return None
        train, machine = self.preset.pretrain, self.machine
        asked = (self.model, train, self.preset.runtime, machine.device_type)
        rows = micro_batch_rows(*asked, machine.memory_bytes, train.batch_rows)
        return rows, memory_of(*asked, rows)

    def _optimizer_bytes(self, train: TrainRecipe) -> float:
        assert self.model is not None
        return optimizer_bytes_per_parameter(train, build_on_meta(self.model))

    def flops(self, train: TrainRecipe) -> Flops | None:
        """Of one token; None while the vocabulary is unknown."""
        return flops_per_token(self.model, train.seq_len_tokens) if self.model is not None else None

    def estimate(self, stage: StageSurvey) -> Estimate:
        """What building `stage` from its present state costs; nothing if it is cached."""
        if stage.state == "cached":
            return Estimate(0.0, "cached")
        if stage.stage in ("pretrain", "sft"):
            train = self.preset.pretrain if stage.stage == "pretrain" else self.preset.sft and self.preset.sft.train
            assert train is not None
            return self._training(stage, train)
        guess = self._assumed(stage)
        if (before := self._before(stage)) is not None:
            return Estimate(before, "measured before", guess.disk_bytes)
        return guess

    def _training(self, stage: StageSurvey, train: TrainRecipe) -> TrainingEstimate:
        left = train.steps - stage.step
        flops = self.flops(train)
        if flops is None or self.model is None or self.parameters is None:
            return TrainingEstimate(
                None,
                f"unknown until {self.survey.tokenizer.name} is built",
                steps=train.steps,
                steps_left=left,
                tokens=train.steps * train.batch_tokens,
            )
        whole, rest = self._training_flops(train, 0), self._training_flops(train, stage.step)
        rate = self.rate(stage.stage, train)
        held_out = self._held_out_flops(stage, train, flops)
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

    def rate(self, stage: str, train: TrainRecipe) -> Rate | None:
        """Training speed of the preset's model; worked out once per stage."""
        if stage not in self._rates and self.model is not None and (flops := self.flops(train)) is not None:
            asked = (self._store, stage, self.model, flops, train.seq_len_tokens, self.machine, self.preset.runtime)
            self._rates[stage] = training_rate(*asked, self.timing)
        return self._rates.get(stage)

    @cached_property
    def _rates(self) -> dict[str, Rate | None]:
        return {}

    def _held_out_flops(self, stage: StageSurvey, train: TrainRecipe, flops: Flops) -> float:
        sources = len(self.preset.data.sources) if stage.stage == "pretrain" else 1
        evaluations = (train.steps - stage.step) // train.eval_every_steps + 2
        return sources * evaluations * train.eval_tokens * flops.forward

    def _before(self, stage: StageSurvey) -> float | None:
        """Seconds the newest whole artifact of the same stage and label took."""
        alike = [
            artifact.manifest
            for artifact in self._store.artifacts()
            if (artifact.stage, artifact.label) == (stage.stage, stage.artifact.label) and self._whole(artifact)
        ]
        return max(alike, key=lambda manifest: manifest["created"])["wall_s"] if alike else None

    def _assumed(self, stage: StageSurvey) -> Estimate:
        match stage.stage:
            case "acquire":
                source = getattr(stage.recipe, "source")  # noqa: B009  AcquireRecipe's, an excluded field
                return _over(self._text_bytes(stage), READ_BYTES_PER_S[_origin(source)], DOCUMENTS_SHARE)
            case "tokenize" | "chat":
                return _over(
                    self._text_bytes(self._stage_of(stage.inputs["documents"])), TOKENIZE_BYTES_PER_S, SHARDS_SHARE
                )
            case "tokenizer":
                trained = self.preset.tokenizer.path is None and self.preset.tokenizer.hub is None
                return _over(self.preset.tokenizer.train_bytes if trained else 0.0, TRAIN_TOKENIZER_BYTES_PER_S, 0.0)
            case "evaluate":
                return self._evaluation(getattr(stage.recipe, "task"))  # noqa: B009  an excluded field
            case "interpret":
                assert self.preset.interpret is not None
                return self._forward(self.preset.interpret.tokens * len(self.preset.data.sources) * PROBING_SLOWDOWN)
        return Estimate(STARTUP_S, "assumed")

    def _evaluation(self, task: EvalTaskRecipe) -> Estimate:
        """Prompts are read at training's FLOP/s; answers are decoded in batches, a step costing what its layers do."""
        local = task.name in local_names()
        documents = task.limit or BENCHMARK_DOCUMENTS
        answer_tokens = task.max_new_tokens or (LOCAL_ANSWER_TOKENS if local else ANSWER_TOKENS)
        read = self._forward(documents * ((LOCAL_PROMPT_TOKENS if local else PROMPT_TOKENS) + answer_tokens))
        if read.wall_s is None:
            return read
        batches = -(-documents // self.preset.runtime.eval_batch_rows)
        decode_s = batches * answer_tokens * self.preset.model.n_layers * LAYER_STEP_S
        return Estimate(read.wall_s + decode_s, read.source)

    def _forward(self, tokens: float) -> Estimate:
        train = self.preset.pretrain
        flops, rate = self.flops(train), self.rate("pretrain", train)
        if flops is None or rate is None:
            return Estimate(None, "unknown, as the model's speed is")
        return Estimate(tokens * flops.forward / rate.flops_per_s + STARTUP_S, "assumed")

    def _text_bytes(self, stage: StageSurvey) -> float | None:
        """UTF-8 bytes of a source's documents; None where only reading it tells."""
        if self._whole(stage.artifact):
            return stage.artifact.facts["text_bytes"]
        recipe: Any = stage.recipe
        source = recipe.source
        known = [source.max_bytes]
        if source.max_documents is not None:
            known.append(source.max_documents * DOCUMENT_BYTES[_origin(source)])
        if source.builtin is not None:
            known.append(UNBOUNDED_TEXT_BYTES)
        elif source.path is not None:
            known.append(sum(file["bytes"] for file in recipe.identity["files"]))
        return min((size for size in known if size is not None), default=None)

    def _stage_of(self, artifact: Any) -> StageSurvey:
        return next(stage for stage in self.survey.stages if stage.artifact.key == artifact.key)

    def _whole(self, artifact: Artifact) -> bool:
        return self._store.problem(artifact) is None


def known_s(estimates: Iterable[Estimate]) -> float:
    """Sum of the times that are known."""
    return sum(estimate.wall_s or 0.0 for estimate in estimates)


def _origin(source: SourceRecipe) -> str:
    return next(name for name in ORIGINS if getattr(source, name) is not None)


def _over(text_bytes: float | None, bytes_per_s: float, disk_share: float) -> Estimate:
    if text_bytes is None:
        return Estimate(None, "unknown: set max_bytes to bound the source")
    return Estimate(text_bytes / bytes_per_s + 1.0, "assumed", disk_share * text_bytes)


def _vocabulary(path: str) -> int:
    vocabulary = json.loads(tokenizer_file(path).read_text(encoding="utf-8"))
    ids = [*vocabulary["model"]["vocab"].values(), *(token["id"] for token in vocabulary["added_tokens"])]
    return max(ids) + 1

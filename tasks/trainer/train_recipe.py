"""Training recipes and `run.json`, the frozen description of one training run.

`RunSpec` is the whole contract between the Prefect task (which writes it) and the training process
`python -m athanor.tasks.trainer RUN_DIR` (which reads it and nothing else).
"""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from athanor.core.kinds import NameOf
from athanor.core.recipe import Recipe
from athanor.core.runtime import Runtime
from athanor.data.data_recipe import MixtureRecipe
from athanor.data.phases import Phase
from athanor.models.model_recipe import ModelRecipe
from athanor.tasks.trainer.course.schedules.kind import SCHEDULES
from athanor.tasks.trainer.optimizers.defaults import refuse_stalling_beta, with_defaults
from athanor.tasks.trainer.optimizers.kind import OPTIMIZERS

Objective = Literal["pretrain", "sft"]  # a training stage is named by what it does


class GuardRecipe(Recipe):
    """What counts as a bad step and what follows (tasks/trainer/course/guard.py). Lengths in optimizer steps."""

    window_steps: int = Field(
        default=64, ge=8, description="Last good steps, whose losses and gradient norms set the scale"
    )
    spike: float = Field(
        default=8.0,
        gt=0,
        description="A step whose loss or log gradient norm is this many spreads above the median is not learned from",
    )
    skips: int = Field(default=3, ge=1, description="Bad steps in a row before the weights are rolled back")
    rollbacks: int = Field(default=2, ge=0, description="Rollbacks before training stops and says why")
    anchor_steps: int = Field(
        default=100, ge=1, description="A checkpoint to roll back to is kept at every multiple of this"
    )
    cooldown_rise: float | None = Field(
        default=None,
        gt=0,
        description="The rate decays early once the mean loss stays this share above its lowest; none never",
    )
    cooldown_patience: int = Field(
        default=3, ge=1, description="Evaluations in a row with cooldown_rise before an early decay"
    )
    cooldown_from: float = Field(
        default=0.5, ge=0, le=1, description="Share of the steps before which the rate never decays early"
    )


class LengthPhase(Recipe):
    """Rows of another length than the run ends with, from the phase before until a share of the steps."""

    seq_len_tokens: int = Field(ge=2, description="Tokens per row; must divide the next phase's")
    until_fraction: float = Field(gt=0, lt=1, description="Share of the steps at which the next phase begins")


class TrainRecipe(Recipe):
    """Optimization of one run. A step is an optimizer step over `batch_tokens`."""

    steps: int = Field(ge=1, description="Optimizer steps")
    seq_len_tokens: int = Field(ge=2, description="Tokens per row; with length_phases those of the last phase")
    length_phases: tuple[LengthPhase, ...] | None = Field(
        default=None,
        min_length=1,
        description="Shorter rows at the start of the run, in order; a step has more of them, as many tokens",
    )
    batch_tokens: int = Field(ge=2, description="Tokens per step over all ranks; a multiple of seq_len_tokens")
    peak_lr: float = Field(ge=0, le=10, description="Learning rate after warm-up")
    min_lr_fraction: float = Field(default=0.0, ge=0, le=1, description="Final learning rate as a share of the peak")
    schedule: Annotated[str, NameOf(SCHEDULES)] = Field(
        default="cosine",
        description="Learning rate after warm-up; wsd and trapezoid stay at the peak, then decay",
    )
    warmup_steps: int = Field(default=0, ge=0, description="Linear warm-up, starting at 1/warmup_steps of the peak")
    decay_fraction: float = Field(
        default=0.2,
        gt=0,
        le=1,
        description="Share of the steps, the last, in which the wsd and trapezoid schedules decay",
    )
    optimizer: Annotated[str, NameOf(OPTIMIZERS)] = Field(
        default="adamw",
        exclude_if=lambda name: name == "adamw",
        description="Makes updates of gradients; Lion wants about a tenth of AdamW's peak_lr, Adafactor (relative to a "
        "matrix's size) ten times as much",
    )
    beta1: float | None = Field(
        default=None, ge=0, lt=1, description="Decay of the first moment; none takes the optimizer's own"
    )
    beta2: float | None = Field(
        default=None,
        ge=0,
        lt=1,
        description="Decay of the second moment, Lion's of its only one; none takes the optimizer's own",
    )
    eps: float | None = Field(
        default=None,
        gt=0,
        description="Smallest divisor of AdamW, Muon's AdamW, Sophia-G, ELLISAdam; none takes the optimizer's own",
    )
    weight_decay: float | None = Field(
        default=None,
        ge=0,
        description="Decay of matrices, never of gains, biases, alpha, beta, by lr * weight_decay a step; ellis-adam: "
        "by lr / peak_lr * weight_decay; none takes the optimizer's own",
    )
    sophia_gamma: float | None = Field(
        default=None,
        gt=0,
        description="Of sophia-g: how much curvature counts, so which updates are clipped; none is its own",
    )
    grad_clip: float = Field(default=1.0, gt=0, description="Global gradient norm is clipped to this")
    average_from: float | None = Field(
        default=None, ge=0, lt=1, description="Share of the steps after which weights are averaged; none takes the last"
    )
    guard: GuardRecipe = Field(default=GuardRecipe(), description="What is done about bad steps")
    seed: int = Field(default=0, ge=0, description="Seed of initialisation, data order and noise")
    eval_every_steps: int = Field(default=200, ge=1, description="Held-out evaluation interval")
    eval_tokens: int = Field(default=65_536, ge=1, description="Held-out tokens per source and evaluation")

    @model_validator(mode="before")
    @classmethod
    def _optimizer_defaults(cls, fields: Any) -> Any:
        """Write the optimizer's own values where the recipe has none: the key holds the numbers a run trained with."""
        if not isinstance(fields, dict) or (name := fields.get("optimizer", "adamw")) not in OPTIMIZERS:
            return fields
        return with_defaults(name, fields)

    @model_validator(mode="after")
    def _moments_move(self) -> TrainRecipe:
        refuse_stalling_beta(self.optimizer, {"beta1": self.beta1, "beta2": self.beta2})
        return self

    @model_validator(mode="after")
    def _whole_rows(self) -> TrainRecipe:
        if self.batch_tokens % self.seq_len_tokens:
            raise ValueError(
                f"batch_tokens={self.batch_tokens} must be a multiple of seq_len_tokens={self.seq_len_tokens}"
            )
        if self.warmup_steps >= self.steps:
            raise ValueError(f"warmup_steps={self.warmup_steps} must be below steps={self.steps}")
        stable = [schedule.name for schedule in SCHEDULES.records() if schedule.stable]
        if self.guard.cooldown_rise is not None and self.schedule not in stable:
            raise ValueError(
                f"guard.cooldown_rise={self.guard.cooldown_rise} needs a schedule with a stable phase to end early "
                f"({', '.join(stable)}), not schedule={self.schedule}"
            )
        return self

    @model_validator(mode="after")
    def _phases_follow(self) -> TrainRecipe:
        lengths = [phase.seq_len_tokens for phase in self.length_phases or ()]
        for i, (length, following) in enumerate(pairwise([*lengths, self.seq_len_tokens])):
            if following % length or following == length:
                raise ValueError(
                    f"length_phases.{i}.seq_len_tokens={length} must be shorter than the length that follows, "
                    f"{following}, and divide it"
                )
        firsts = [phase.first_step for phase in self.phases]
        for i, (first, following) in enumerate(pairwise([*firsts, self.steps])):
            if first >= following:
                raise ValueError(
                    f"length_phases: phase {i} would last from step {first} to step {following} of {self.steps}; "
                    "let until_fraction rise, by at least a step"
                )
        return self

    @property
    def batch_rows(self) -> int:
        """Rows per step over all ranks, in the last phase."""
        return self.batch_tokens // self.seq_len_tokens

    @property
    def decay_steps(self) -> int:
        """Steps of the decay, and of the one that a shortened run gets."""
        return max(1, round(self.decay_fraction * self.steps))

    @property
    def phases(self) -> tuple[Phase, ...]:
        """The sequence-length phases in steps; one for the whole run where the recipe names none."""
        shorter = self.length_phases or ()
        firsts = [0, *(round(phase.until_fraction * self.steps) for phase in shorter)]
        lengths = [*(phase.seq_len_tokens for phase in shorter), self.seq_len_tokens]
        return tuple(
            Phase(first, length, self.batch_tokens // length) for first, length in zip(firsts, lengths, strict=True)
        )


class RunSpec(Recipe):
    """What `run.json` holds. Paths are absolute; every artifact is named by path and key."""

    objective: Objective = Field(description="Next-token loss on all text, or on assistant turns only")
    key: str = Field(description="Key of the artifact being built; a checkpoint of another key is refused")
    train: TrainRecipe
    model: ModelRecipe = Field(description="With vocab_size filled in")
    runtime: Runtime
    tokenizer_dir: str = Field(description="Folder of the tokenizer artifact")
    shard_dirs: dict[str, str] = Field(description="Source name -> token-shard artifact (sft: the one chat artifact)")
    mixture: MixtureRecipe | None = Field(default=None, description="Shares of the sources; of pretraining alone")
    init_dir: str | None = Field(default=None, description="Portable checkpoint to start from; none is random weights")
    project: str = Field(default="athanor", description="wandb project")
    run_name: str = Field(description="Name shown in logs and wandb")

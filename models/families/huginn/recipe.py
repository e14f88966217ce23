"""Recipe section of `huginn`: the recurrent core and how often it runs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field, model_validator

from athanor.models.family import Section

if TYPE_CHECKING:
    from athanor.models.shape import Shape


NoiseType = Literal["fixed", "geom", "sqrt", "line", "chi"]


class HuginnRecipe(Section):
    """Depth-recurrent transformer (models/families/huginn/model.py). Blocks between prelude and coda form the core."""

    prelude_layers: int = Field(default=2, ge=1, description="Blocks before the recurrent core")
    coda_layers: int = Field(default=2, ge=1, description="Blocks after it; n_layers minus both are the core's")
    mean_recurrence: int = Field(default=32, ge=1, description="Iterations of the core: mean in training, and default")
    backprop_depth: int = Field(default=8, ge=1, description="Last iterations the gradient goes through")
    eval_recurrence: int | None = Field(
        default=None, ge=1, description="Iterations outside training; none takes mean_recurrence"
    )
    sampling: Literal[
        "poisson-lognormal-filling",
        "poisson-lognormal-fill",
        "poisson-lognormal",
        "poisson-fill",
        "poisson-unbounded",
        "poisson-bounded",
        "simple",
        "bptt",
        "non-uniform",
    ] = Field(
        default="poisson-lognormal-filling",
        description="How the iterations of a training step are drawn (models/families/huginn/recurrence.py)",
    )
    curriculum_steps: int = Field(
        default=0, ge=0, description="First steps of the training, in which recurrence and backpropagation depth grow"
    )
    draws_per_step: int | None = Field(
        default=None,
        ge=2,
        description="Draws of the iterations in a training step, shared out among its rows by their keys; none makes "
        "one for all rows",
    )
    injection: Literal["linear", "ffn", "add", "gate", "none"] = Field(
        default="linear",
        description="How an iteration reads the embedding e: a matrix (linear) or a gated layer (ffn) on [state ; e], "
        "state + e, state * e (gate), or not at all (none): then e is the first state",
    )
    block: Literal["sandwich", "pre-norm", "post-norm"] = Field(
        default="sandwich", description="Norm of each branch's input, of the sum it makes, or (sandwich) of both"
    )
    norm_gain: bool = Field(default=True, description="Learned gains in the norms")
    qk_bias: bool = Field(default=True, description="Learned biases on queries and keys, before RoPE")
    init: Literal["takase", "scaled", "scaled-orthogonal"] = Field(
        default="takase", description="takase scales embedded tokens by sqrt(d_model); scaled does not"
    )
    tied: bool = Field(default=True, description="The head is the embedding")
    test_time_noise: float | None = Field(
        default=None, gt=0, le=1, description="Noise in the state outside training, as a share of the first state's"
    )
    test_time_noise_type: NoiseType | None = Field(
        default=None, description="Its course over the iterations (models/families/huginn/state_noise.py); none: fixed"
    )

    @model_validator(mode="after")
    def _possible(self) -> HuginnRecipe:
        if self.backprop_depth > self.mean_recurrence:
            raise ValueError(
                f"backprop_depth={self.backprop_depth} must not exceed mean_recurrence={self.mean_recurrence}"
            )
        if self.test_time_noise_type is not None and self.test_time_noise is None:
            raise ValueError(f"test_time_noise_type={self.test_time_noise_type} needs test_time_noise")
        truncates = self.backprop_depth < self.mean_recurrence or self.sampling == "poisson-lognormal-filling"
        if self.injection == "none" and truncates:
            raise ValueError(
                "injection=none teaches the prelude through all iterations or not at all: write backprop_depth="
                f"{self.mean_recurrence}, as mean_recurrence, and sampling=poisson-fill"
            )
        return self

    def check(self, shape: Shape) -> None:
        if shape.n_layers <= self.prelude_layers + self.coda_layers:
            raise ValueError(
                f"n_layers={shape.n_layers} leaves no recurrent core between huginn.prelude_layers="
                f"{self.prelude_layers} and huginn.coda_layers={self.coda_layers}"
            )

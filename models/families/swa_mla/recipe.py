"""Recipe section of `swa_mla`: sliding windows and latent attention."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from athanor.models.family import Section


class SwaMlaRecipe(Section):
    """Sliding-window and latent attention (models/families/swa_mla/model.py)."""

    n_swa: int = Field(default=2, ge=0, description="Sliding-window blocks that begin each cycle")
    n_mla: int = Field(default=1, ge=0, description="Latent-attention blocks that end each cycle")
    window: int = Field(default=256, ge=1, description="Keys a query sees in its window, itself included, tokens")
    sink: int = Field(default=4, ge=0, description="First tokens of the document that stay visible")
    window_inclusive_compat: bool = Field(default=False, description="One key more, as the published code counts")
    kv_rank: int = Field(default=256, ge=1, description="Latent channels behind all keys and values")
    q_rank: int = Field(default=0, ge=0, description="Latent channels behind the queries; 0 makes them from the input")
    qk_nope_dim: int = Field(default=128, ge=1, description="Channels of a latent-attention head without position")
    qk_rope_dim: int = Field(default=64, ge=2, description="Channels with position, one key slice for all heads; even")
    v_dim: int = Field(default=128, ge=1, description="Value channels of a latent-attention head")
    kv_norm: Literal["rms", "layernorm"] = Field(default="rms", description="Norm of the latents, the queries' too")
    norm: Literal["rms", "dynamic_tanh"] = Field(default="rms", description="Norm of the residual stream")
    rope_factor: float = Field(default=1.0, ge=1, description="Divides positions: linear scaling for longer rows")
    dropout: float | None = Field(
        default=None, gt=0, lt=1, description="Share of the embedded tokens' and branches' values left out in training"
    )
    label_smoothing: float | None = Field(
        default=None,
        gt=0,
        lt=1,
        description="Share of a training target that all tokens get alike; not in held-out losses",
    )
    logit_scale_base: float | None = Field(
        default=None,
        gt=1,
        description="b of the factor ln(b + floor(p / w)) / ln(b) on the scores of a window's query at position p of "
        "its document; none: no factor",
    )
    logit_scale_window: int | None = Field(default=None, ge=1, description="w of that factor, tokens; none: 128")
    logit_scale_in_training: bool | None = Field(
        default=None, description="That factor in training too; none: outside it alone, as published"
    )
    scale_residual_init: bool = Field(
        default=False, description="Start matrices that write into the residual stream smaller by sqrt(2 n_layers)"
    )

    @model_validator(mode="after")
    def _possible(self) -> SwaMlaRecipe:
        if self.n_swa + self.n_mla == 0:
            raise ValueError("n_swa=0 and n_mla=0 leave a cycle without blocks: one of them must be at least 1")
        if self.qk_rope_dim % 2:
            raise ValueError(f"qk_rope_dim={self.qk_rope_dim} must be even: RoPE rotates pairs of channels")
        if self.logit_scale_base is None and (self.logit_scale_window or self.logit_scale_in_training):
            raise ValueError("logit_scale_window and logit_scale_in_training need logit_scale_base")
        return self

    @property
    def visible_window(self) -> int:
        """Keys in the window, the query's own included."""
        return self.window + self.window_inclusive_compat

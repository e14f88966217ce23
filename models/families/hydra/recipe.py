"""Recipe section of `hydra`: compressed attention and routing over depth, recursion and experts."""

from __future__ import annotations

from collections.abc import Mapping, Set
from typing import TYPE_CHECKING, Literal

from pydantic import Field, model_validator

from athanor.models.family import Section

if TYPE_CHECKING:
    from athanor.models.shape import Shape


ParameterKind = Literal["embedding", "recursion", "router", "expert"]
COMPRESSION = 4  # of attention in the published models: n_heads * head_dim channels for d_model


class HydraRecipe(Section):
    """Compressed attention and routing over depth, recursion and experts (models/families/hydra/model.py)."""

    conv_kernel: int = Field(default=3, ge=1, description="Taps of the first convolution of queries and keys")
    mixing_kernel: int = Field(default=1, ge=1, description="Taps of the second, which mixes the channels of a head")
    conv_bias: bool = Field(default=False, description="Biases in both convolutions")
    rope_pairing: Literal["interleaved", "half-split"] = Field(
        default="interleaved", description="Which channels of a head RoPE turns together"
    )
    scale_embedding: bool = Field(default=True, description="Multiply embedded tokens by sqrt(d_model)")
    routing: Literal["dynamic", "static"] = Field(
        default="dynamic",
        description="dynamic: serving skips what the routers turn away; static: no shape depends on data",
    )
    capacity: float = Field(default=0.75, gt=0, le=1, description="Share of tokens a block computes; 1 leaves out MoD")
    mod_scope: Literal["block", "mlp"] = Field(
        default="block",
        description="What MoD gates: whole blocks with their recursions, or the feed-forward layers of those between "
        "the first and the last",
    )
    mod_infer: Literal["threshold", "topk"] = Field(
        default="threshold",
        description="Serving: each token by a calibrated threshold, or the best of a whole document (scoring only)",
    )
    mod_loss: float = Field(
        default=0.01, ge=0, description="Weight of MoD's loss at 32 effective layers and width 768; scaled from there"
    )
    threshold_jitter: float = Field(
        default=0.1, ge=0, description="Standard deviation of the noise on logits that meet a threshold, in training"
    )
    recursions: int = Field(default=4, ge=1, description="Times a block may run; 1 leaves out MoR")
    mor_sharing: Literal["sequence", "middle_cycle"] = Field(
        default="sequence",
        description="What recurs: every layer by itself, or those between the first and the last together, and those "
        "two not at all",
    )
    mor: Literal["gaussian", "expert_choice", "token_choice"] = Field(
        default="gaussian", description="How the depth of a token is decided"
    )
    mor_exit: Literal["soft", "hard"] = Field(
        default="soft", description="Gaussian MoR in serving: mix all depths, or stop at the most probable"
    )
    mor_kv: Literal["each", "first"] = Field(
        default="each", description="Keys and values of a recursion: its own, or those of the block's first"
    )
    mor_variance: float = Field(default=0.5, gt=0, description="Of the bell over depths of Gaussian MoR")
    ponder_loss: float = Field(default=0.01, ge=0, description="Weight of Gaussian MoR's mean depth in the loss")
    experts: int = Field(default=0, ge=0, description="Experts of an expert layer")
    moe_layers: int = Field(default=0, ge=0, description="Expert layers between the blocks; 0 leaves out MoE")
    experts_per_token: int = Field(default=1, ge=1, description="Experts a token uses")
    expert_d_ff: int | None = Field(default=None, ge=1, description="Width of an expert; none takes d_ff")
    moe_loss: float = Field(default=0.01, ge=0, description="Weight of the experts' balance loss")
    router_jitter: float = Field(default=0.0, ge=0, lt=1, description="Relative noise on expert logits in training")
    domain_experts: dict[str, tuple[int, ...]] = Field(
        default={}, description="Source of the mixture -> experts its tokens are taught to choose; others choose freely"
    )
    domain_loss: float = Field(
        default=0.1, ge=0, description="Weight of that lesson: -ln of the probability of the source's experts"
    )
    domain_until: float = Field(default=0.3, gt=0, le=1, description="Share of the training during which it is given")
    curriculum: bool = Field(default=True, description="Bring in the routers by and by; false: all from the start")
    mod_from: float = Field(default=0.1, ge=0, le=1, description="Share of the training before MoD may open")
    mod_gate_loss: float = Field(default=5.0, gt=0, description="MoD opens once the mean loss is below, nats per token")
    mod_forced: float = Field(default=0.2, ge=0, le=1, description="Share of the training at which MoD opens anyway")
    mod_ramp_steps: int = Field(default=300, ge=1, description="Steps from opening MoD to its full effect")
    mod_skip_from: float | None = Field(
        default=None, ge=0, le=0.9, description="Share of the training after which it learns to skip as serving does"
    )
    mor_from: float = Field(default=0.2, ge=0, lt=1, description="Share of the training at full recursion depth")
    mor_full: float = Field(default=0.3, gt=0, le=1, description="Share of the training after which MoR is adaptive")
    moe_dense: float = Field(default=0.05, ge=0, le=1, description="Share of the training with every expert computed")
    lr_scale: dict[ParameterKind, float] = Field(
        default={},
        description="Factors on the learning rate of these parameters; embedding: of tokens, recursion: of the "
        "recursions",
    )
    decay_scale: dict[ParameterKind, float] = Field(default={}, description="Factors on their weight decay")

    @model_validator(mode="after")
    def _possible(self) -> HydraRecipe:
        if self.moe_layers and self.experts < 2:
            raise ValueError(f"experts={self.experts} must be at least 2 where moe_layers={self.moe_layers}")
        if self.moe_layers and self.experts_per_token > self.experts:
            raise ValueError(f"experts_per_token={self.experts_per_token} must not exceed experts={self.experts}")
        for source, experts in self.domain_experts.items():
            if not experts or not set(experts) <= set(range(self.experts if self.moe_layers else 0)):
                raise ValueError(
                    f"domain_experts.{source}={list(experts)} must name some of the experts 0 .. experts - 1, where "
                    f"experts={self.experts}, moe_layers={self.moe_layers}"
                )
        skips = self.mod_infer == "topk" or self.mor_exit == "hard" or self.mod_skip_from is not None
        if self.routing == "static" and skips:
            raise ValueError(
                f"routing=static skips nothing, but mod_infer={self.mod_infer}, mor_exit={self.mor_exit} or "
                f"mod_skip_from={self.mod_skip_from} do"
            )
        if self.mor_exit == "hard" and self.mor != "gaussian":
            raise ValueError(f"mor_exit=hard belongs to mor=gaussian; mor={self.mor} stops tokens by itself")
        if self.mod_from > self.mod_forced:
            raise ValueError(f"mod_from={self.mod_from} must not be after mod_forced={self.mod_forced}")
        if self.mor_from >= self.mor_full:
            raise ValueError(f"mor_from={self.mor_from} must be before mor_full={self.mor_full}")
        return self

    def layers_of_blocks(self, n_layers: int) -> list[int]:
        """How many layers each block holds; a block recurs as a whole."""
        return [1, n_layers - 2, 1] if self.mor_sharing == "middle_cycle" else [1] * n_layers

    def check(self, shape: Shape) -> None:
        if "head_dim" not in shape.model_fields_set and COMPRESSION * shape.n_heads * shape.head_dim > shape.d_model:
            fitting = max(2, shape.d_model // (COMPRESSION * shape.n_heads) // 2 * 2)
            raise ValueError(
                f"head_dim is not given, and its default {shape.head_dim} would compress d_model={shape.d_model} to "
                f"n_heads * head_dim={shape.n_heads * shape.head_dim} channels of attention; write head_dim: {fitting} "
                f"for a {COMPRESSION}th, as published"
            )
        if self.mor_sharing == "middle_cycle" and shape.n_layers < 3:
            raise ValueError(
                f"hydra.mor_sharing=middle_cycle repeats the layers between the first and the last: "
                f"n_layers={shape.n_layers} has none; use at least 3"
            )
        if self.mod_scope == "mlp" and self.capacity < 1 and shape.n_layers < 3:
            raise ValueError(
                f"hydra.mod_scope=mlp gates the blocks between the first and the last: n_layers={shape.n_layers} has "
                "none; use at least 3, or hydra.capacity=1"
            )
        blocks = len(self.layers_of_blocks(shape.n_layers))
        most = max(min(1, blocks - 1), blocks - 2)
        if self.moe_layers > most:
            raise ValueError(
                f"hydra.moe_layers={self.moe_layers} do not fit between the {blocks} blocks that "
                f"n_layers={shape.n_layers}, hydra.mor_sharing={self.mor_sharing} make: at most {most}"
            )

    def sources(self) -> Mapping[str, Set[str]]:
        return {"domain_experts": self.domain_experts.keys()}

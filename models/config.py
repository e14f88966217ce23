"""Model recipes: one flat model for what all families share, one section per family for what is its own.

`family` chooses; the section of that name may be given, every other must be absent. An impossible
combination is refused here, in one line that names the fields.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from data.config import Recipe

Family = Literal["vanilla", "polychromatic", "swa_mla", "huginn", "hydra"]


class VanillaRecipe(Recipe):
    """What a plain decoder is made of (models/families/vanilla.py); as it comes, the control of the other families."""

    positions: Literal["rope", "learned"] = Field(
        default="rope", description="rope turns queries and keys; learned adds a vector for each position"
    )
    norm: Literal["rms", "layernorm"] = Field(default="rms", description="Norm of the residual stream")
    branch_norm: bool = Field(default=False, description="Norm what a branch adds, too")
    ffn: Literal["swiglu", "geglu", "gelu"] = Field(default="swiglu", description="Feed-forward layer")
    bias: bool = Field(default=False, description="Biases in attention and feed-forward layers")
    qk_norm: bool = Field(default=True, description="RMSNorm of every head's queries and keys")
    scale_embedding: bool = Field(default=False, description="Multiply embedded tokens by sqrt(d_model)")
    window: int | None = Field(
        default=None, ge=1, description="Keys a query sees in every other block from the first on, itself included"
    )
    attention_cap: float | None = Field(default=None, gt=0, description="Bound of attention scores, by tanh")
    logit_cap: float | None = Field(default=None, gt=0, description="Bound of logits, by tanh")


class PolychromaticRecipe(Recipe):
    """PolyGLU routing (models/families/polychromatic.py)."""

    gate_width: int = Field(default=32, ge=1, description="Hidden width of the routing network")
    pool: Literal["causal", "sequence"] = Field(
        default="causal",
        description="causal: mean over the document so far; sequence: the published mean over the whole row, "
        "which lets the future into the gate",
    )
    tau_start: float = Field(default=1.0, gt=0, description="Gumbel-softmax temperature at step 0")
    tau_end: float = Field(default=0.1, gt=0, description="Temperature at the last step; linear between")


class SwaMlaRecipe(Recipe):
    """Sliding-window and latent attention (models/families/swa_mla.py)."""

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
    scale_residual_init: bool = Field(
        default=False, description="Start matrices that write into the residual stream smaller by sqrt(2 n_layers)"
    )

    @model_validator(mode="after")
    def _possible(self) -> SwaMlaRecipe:
        if self.n_swa + self.n_mla == 0:
            raise ValueError("n_swa=0 and n_mla=0 leave a cycle without blocks: one of them must be at least 1")
        if self.qk_rope_dim % 2:
            raise ValueError(f"qk_rope_dim={self.qk_rope_dim} must be even: RoPE rotates pairs of channels")
        return self

    @property
    def visible_window(self) -> int:
        """Keys in the window, the query's own included."""
        return self.window + self.window_inclusive_compat


class HuginnRecipe(Recipe):
    """Depth-recurrent transformer (models/families/huginn.py). Blocks between prelude and coda form the core."""

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
        description="How the iterations of a training step are drawn (models/blocks/recurrence.py)",
    )
    curriculum_steps: int = Field(
        default=0, ge=0, description="First steps of the training, in which recurrence and backpropagation depth grow"
    )
    injection: Literal["linear", "add"] = Field(
        default="linear", description="How a step reads the embedding: adapter on [state ; embedding], or their sum"
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

    @model_validator(mode="after")
    def _possible(self) -> HuginnRecipe:
        if self.backprop_depth > self.mean_recurrence:
            raise ValueError(
                f"backprop_depth={self.backprop_depth} must not exceed mean_recurrence={self.mean_recurrence}"
            )
        return self


class HydraRecipe(Recipe):
    """Compressed attention and routing over depth, recursion and experts (models/families/hydra.py)."""

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
    lr_scale: dict[Literal["embedding", "router", "expert"], float] = Field(
        default={}, description="Factors on the learning rate of these parameters"
    )
    decay_scale: dict[Literal["embedding", "router", "expert"], float] = Field(
        default={}, description="Factors on their weight decay"
    )

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


class ModelRecipe(Recipe):
    """Shape of a decoder. Widths are in channels, lengths in tokens."""

    family: Family = Field(description="Architecture")
    vocab_size: int | None = Field(default=None, ge=2, description="Token ids; none takes the tokenizer's")
    d_model: int = Field(ge=2, description="Width of the residual stream")
    n_layers: int = Field(ge=1, description="Blocks")
    n_heads: int = Field(ge=1, description="Query heads")
    n_kv_heads: int = Field(ge=1, description="Key/value heads; divides n_heads")
    head_dim: int = Field(default=64, ge=2, description="Channels of a head; even, because RoPE rotates pairs")
    d_ff: int = Field(ge=1, description="Feed-forward width")
    max_seq_len: int = Field(default=4096, ge=2, description="Longest row the model accepts, tokens")
    rope_base: float = Field(default=10_000.0, gt=1, description="RoPE frequency base")
    norm_eps: float = Field(default=1e-6, gt=0, description="Added to the mean square in RMSNorm")
    vanilla: VanillaRecipe | None = Field(default=None, description="Only for family=vanilla")
    polychromatic: PolychromaticRecipe | None = Field(default=None, description="Only for family=polychromatic")
    swa_mla: SwaMlaRecipe | None = Field(default=None, description="Only for family=swa_mla")
    huginn: HuginnRecipe | None = Field(default=None, description="Only for family=huginn")
    hydra: HydraRecipe | None = Field(default=None, description="Only for family=hydra")

    @model_validator(mode="after")
    def _possible(self) -> ModelRecipe:
        if self.n_heads % self.n_kv_heads:
            raise ValueError(f"n_kv_heads={self.n_kv_heads} must divide n_heads={self.n_heads}")
        if self.head_dim % 2:
            raise ValueError(f"head_dim={self.head_dim} must be even: RoPE rotates pairs of channels")
        for section in ("vanilla", "polychromatic", "swa_mla", "huginn", "hydra"):
            if getattr(self, section) is not None and self.family != section:
                raise ValueError(f"section {section} belongs to family={section}, not family={self.family}")
        if self.family == "huginn":
            ends = self.huginn or HuginnRecipe.model_validate({})
            if self.n_layers <= ends.prelude_layers + ends.coda_layers:
                raise ValueError(
                    f"n_layers={self.n_layers} leaves no recurrent core between huginn.prelude_layers="
                    f"{ends.prelude_layers} and huginn.coda_layers={ends.coda_layers}"
                )
        if self.hydra is not None and self.hydra.mor_sharing == "middle_cycle" and self.n_layers < 3:
            raise ValueError(
                f"hydra.mor_sharing=middle_cycle repeats the layers between the first and the last: "
                f"n_layers={self.n_layers} has none; use at least 3"
            )
        if self.hydra is not None and self.hydra.mod_scope == "mlp" and self.hydra.capacity < 1 and self.n_layers < 3:
            raise ValueError(
                f"hydra.mod_scope=mlp gates the blocks between the first and the last: n_layers={self.n_layers} has "
                "none; use at least 3, or hydra.capacity=1"
            )
        if self.hydra is not None:
            blocks = len(self.hydra.layers_of_blocks(self.n_layers))
            if self.hydra.moe_layers > max(min(1, blocks - 1), blocks - 2):
                raise ValueError(
                    f"hydra.moe_layers={self.hydra.moe_layers} do not fit between the {blocks} blocks that "
                    f"n_layers={self.n_layers}, hydra.mor_sharing={self.hydra.mor_sharing} make: at most "
                    f"{max(min(1, blocks - 1), blocks - 2)}"
                )
        return self

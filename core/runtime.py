"""Runtime: how and where a run is carried out. Nothing here may change the bytes of an artifact or its key."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

EngineName = Literal["single", "ddp", "fsdp", "deepspeed"]  # as tasks/trainer/engines declares them


class Runtime(BaseModel):
    """Settings of the machine and the operator, shared by every stage."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    device: Literal["auto", "cpu", "cuda"] = Field(default="auto", description="auto takes a GPU if there is one")
    precision: Literal["auto", "fp32", "bf16", "fp8"] = Field(
        default="auto",
        description="Over fp32 weights: auto is bf16 where native, else fp32; fp8 for the products of the blocks",
    )
    engine: Literal["auto", EngineName] = Field(
        default="auto", description="How training is spread over ranks; auto is single for one rank, ddp for more"
    )
    ranks: int = Field(default=1, ge=1, description="Training processes on each machine, on GPUs one for each of them")
    nodes: int = Field(default=1, ge=1, description="Machines that train together; they share the store's folder")
    rendezvous: str | None = Field(
        default=None,
        pattern=r"^[^\s:]+:[0-9]{1,5}$",
        description="host:port of this machine that the other nodes reach; needed for more than one",
    )
    zero_stage: Literal[1, 2, 3] | None = Field(
        default=None,
        description="deepspeed shards optimizer state (1), gradients too (2), parameters too (3); none is 2",
    )
    offload: Literal["none", "optimizer", "parameters"] = Field(
        default="none", description="deepspeed: what is kept in host memory; parameters includes the optimizer"
    )
    threads: int | None = Field(default=None, ge=1, description="CPU threads of torch; none leaves the default")
    workers: int = Field(default=2, ge=1, description="Processes or threads for tokenization and loading")
    micro_batch_rows: int | None = Field(
        default=None, ge=1, description="Rows of the longest length per forward pass; none lets the trainer choose"
    )
    checkpoint_every_s: float = Field(default=600.0, gt=0, description="Save at least this often, seconds")
    checkpoint_every_steps: int = Field(default=1000, ge=1, description="Save at least this often, optimizer steps")
    keep_checkpoints: int = Field(default=2, ge=2, description="Newest checkpoints kept; fewer could lose the run")
    permanent_every_steps: int | None = Field(
        default=None, ge=1, description="Checkpoints at multiples of this are never deleted while the run goes on"
    )
    recompute_blocks: int | None = Field(
        default=None,
        ge=1,
        description="Of every so many blocks one is recomputed in the backward pass; none recomputes none",
    )
    compile: bool = Field(default=False, description="torch.compile each block; minutes of warm-up, then faster")
    kernels: str = Field(
        default="all",
        description="Triton kernels on a GPU: all, none, or names with commas between them (`athanor kernels`)",
    )
    retries: int = Field(default=2, ge=0, description="Restarts after a preemption, out-of-memory or I/O failure")
    price_usd_per_hour: float = Field(
        default=0.0,
        ge=0,
        description="What one device costs, a GPU or a machine without; 0 takes its price from the price table",
    )
    budget_usd: float | None = Field(default=None, gt=0, description="Money the whole lifecycle may cost, all attempts")
    budget_hours: float | None = Field(
        default=None, gt=0, description="Wall hours the whole lifecycle may take, all attempts"
    )
    budget_s: float | None = Field(
        default=None,
        gt=0,
        description="Device seconds a training stage may use over all its attempts; none takes them from the budget",
    )
    wandb: Literal["auto", "off", "offline", "online"] = Field(
        default="auto", description="auto logs online when WANDB_API_KEY is set, else offline"
    )
    eval_batch_rows: int = Field(default=32, ge=1, description="Rows per forward pass in evaluation and generation")
    rebuild_drifted: bool = Field(default=False, description="Rebuild artifacts that were made by other code")

    @model_validator(mode="after")
    def _possible(self) -> Runtime:
        if self.engine == "single" and self.world_size > 1:
            raise ValueError(
                f"engine=single is one process, but ranks={self.ranks} and nodes={self.nodes} ask for "
                f"{self.world_size}: use engine=ddp, fsdp or deepspeed"
            )
        if self.nodes > 1 and self.rendezvous is None:
            raise ValueError(f"nodes={self.nodes} needs rendezvous=HOST:PORT, an address of this machine")
        if self.nodes == 1 and self.rendezvous is not None:
            raise ValueError(f"rendezvous={self.rendezvous} is for several machines: set nodes, or leave it out")
        if self.engine != "deepspeed" and self.offload != "none":
            raise ValueError(f"offload={self.offload} needs engine=deepspeed, not engine={self.engine}")
        if self.engine != "deepspeed" and self.zero_stage is not None:
            raise ValueError(f"zero_stage={self.zero_stage} needs engine=deepspeed, not engine={self.engine}")
        if self.offload == "parameters" and self.zero_stage != 3:
            raise ValueError(f"offload=parameters needs zero_stage=3, not zero_stage={self.zero_stage or 2}")
        return self

    @property
    def world_size(self) -> int:
        """Ranks of all machines together."""
        return self.ranks * self.nodes

    def devices(self, device_type: str) -> int:
        """What a price is paid for: every rank's GPU; where there are none, each machine, whatever its ranks."""
        return self.world_size if device_type == "cuda" else self.nodes

    @property
    def has_budget(self) -> bool:
        """Whether the lifecycle may cost or take only so much."""
        return self.budget_usd is not None or self.budget_hours is not None

    @property
    def training_engine(self) -> EngineName:
        """`engine`, chosen."""
        if self.engine != "auto":
            return self.engine
        return "single" if self.world_size == 1 else "ddp"

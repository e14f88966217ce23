"""Runtime: how and where a run is carried out. Nothing here may change the bytes of an artifact or its key."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class Runtime(BaseModel):
    """Settings of the machine and the operator, shared by every stage."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    device: Literal["auto", "cpu", "cuda"] = Field(default="auto", description="auto takes a GPU if there is one")
    precision: Literal["auto", "fp32", "bf16", "fp8"] = Field(
        default="auto",
        description="Over fp32 weights: auto is bf16 where native, else fp32; fp8 for the products of the blocks",
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
        default=None, ge=1, description="Of every so many blocks one is recomputed in the backward pass; none of them"
    )
    compile: bool = Field(default=False, description="torch.compile each block; minutes of warm-up, then faster")
    retries: int = Field(default=2, ge=0, description="Restarts after a preemption, out-of-memory or I/O failure")
    price_usd_per_hour: float = Field(
        default=0.0, ge=0, description="What this machine costs; 0 takes the device's price from the price table"
    )
    budget_usd: float | None = Field(default=None, gt=0, description="Money the whole lifecycle may cost, all attempts")
    budget_hours: float | None = Field(default=None, gt=0, description="Hours it may take on this machine, likewise")
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

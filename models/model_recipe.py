"""Model recipes: one flat model for what all families share, one section per family for what is its own.

`family` chooses; the section of that name may be given, every other must be absent. An impossible
combination is refused here, in one line that names the fields.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from athanor.core.recipe import Recipe
from athanor.models.families.huginn.recipe import HuginnRecipe
from athanor.models.families.hydra.recipe import HydraRecipe
from athanor.models.families.polychromatic.recipe import PolychromaticRecipe
from athanor.models.families.swa_mla.recipe import SwaMlaRecipe
from athanor.models.families.vanilla.recipe import VanillaRecipe

Family = Literal["vanilla", "polychromatic", "swa_mla", "huginn", "hydra"]


class ModelRecipe(Recipe):
    """Shape of a decoder. Widths are in channels, lengths in tokens."""

    family: Family = Field(description="Architecture")
    vocab_size: int | None = Field(default=None, ge=2, description="Token ids; none takes the tokenizer's")
    d_model: int = Field(ge=2, description="Width of the residual stream")
    n_layers: int = Field(ge=1, le=1000, description="Blocks")
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

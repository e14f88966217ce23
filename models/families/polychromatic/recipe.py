"""Recipe section of `polychromatic`: PolyGLU routing."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from athanor.models.family import Section


class PolychromaticRecipe(Section):
    """PolyGLU routing (models/families/polychromatic/model.py)."""

    gate_width: int = Field(default=32, ge=1, description="Hidden width of the routing network")
    pool: Literal["causal", "sequence"] = Field(
        default="causal",
        description="causal: mean over the document so far; sequence: the published mean over the whole row, "
        "which lets the future into the gate",
    )
    tau_start: float = Field(default=1.0, gt=0, description="Gumbel-softmax temperature at step 0")
    tau_end: float = Field(default=0.1, gt=0, description="Temperature at the last step; linear between")

"""The controlled baseline: the shape of PolychromaticLM; `models.twin` matches one to any other model."""

from __future__ import annotations

from models.sizes import polychromatic

SIZES = {"vanilla-600m": polychromatic.SIZES["polychromatic-600m"].model_copy(update={"family": "vanilla"})}

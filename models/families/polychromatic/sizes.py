"""The one published size of PolychromaticLM."""

from __future__ import annotations

from athanor.models.model_recipe import ModelRecipe

SIZES = {
    "polychromatic-600m": ModelRecipe(
        family="polychromatic",
        vocab_size=151_669,
        d_model=1024,
        n_layers=28,
        n_heads=16,
        n_kv_heads=8,
        head_dim=64,
        d_ff=4096,
        max_seq_len=4096,
    )
}

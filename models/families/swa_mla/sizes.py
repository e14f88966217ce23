"""The published SWA-MLA sizes: two sliding-window blocks to a latent one, LayerNorm on latents.

Names, shapes and GPT-2's vocabulary are the published ones. The parameter counts are what these shapes have, 262 M,
983 M, 1.94 B and 8.58 B; the published "150 M" to "2 B" cannot be had with them.
"""

from __future__ import annotations

from athanor.models.model_recipe import ModelRecipe


def _size(n_layers: int, d_model: int, n_heads: int) -> ModelRecipe:
    return ModelRecipe.model_validate(
        {
            "family": "swa_mla",
            "vocab_size": 50_257,
            "d_model": d_model,
            "n_layers": n_layers,
            "n_heads": n_heads,
            "n_kv_heads": n_heads,
            "head_dim": d_model // n_heads,
            "d_ff": 4 * d_model,
            "max_seq_len": 2048,
            "swa_mla": {"kv_norm": "layernorm"},
        }
    )


SIZES: dict[str, ModelRecipe] = {
    "swa-mla-small": _size(12, 1024, 16),
    "swa-mla-base": _size(24, 1536, 16),
    "swa-mla-large": _size(28, 2048, 16),
    "swa-mla-xl": _size(32, 4096, 32),
}

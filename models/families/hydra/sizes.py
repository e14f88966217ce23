"""HYDRA's sizes: the published shapes, latents of a quarter of the width in heads of 16 channels, GPT-2's vocabulary.

Feed-forward layers are 3.6 widths, rounded up to a multiple of 256. The names are the published ones; the true counts
differ from them, and a block runs 2 to 5 times. `-moe` adds the published number of experts and expert layers.
"""

from __future__ import annotations

import math

from athanor.models.model_recipe import ModelRecipe

# name: (width, blocks, recursions, query heads, key/value heads), (experts, expert layers)
_SHAPES = {
    "debug": ((512, 2, 2, 8, 2), (2, 1)),
    "debug-tall-skinny": ((384, 12, 2, 6, 2), None),
    "50m": ((512, 8, 3, 8, 2), (2, 1)),
    "100m": ((768, 8, 4, 12, 3), (2, 2)),
    "diag": ((768, 8, 5, 12, 3), None),
    "250m": ((1024, 10, 4, 16, 4), (4, 2)),
    "300m": ((1152, 12, 4, 18, 3), (3, 3)),
    "500m": ((1280, 16, 4, 20, 5), (4, 4)),
    "750m": ((1536, 18, 4, 24, 4), (4, 4)),
    "1b": ((1792, 20, 4, 28, 4), (8, 6)),
    "1.5b": ((2048, 22, 4, 32, 4), (8, 6)),
}


def _size(shape: tuple[int, int, int, int, int], experts: tuple[int, int] = (0, 0)) -> ModelRecipe:
    d_model, n_layers, recursions, n_heads, n_kv_heads = shape
    return ModelRecipe.model_validate(
        {
            "family": "hydra",
            "vocab_size": 50_257,
            "d_model": d_model,
            "n_layers": n_layers,
            "n_heads": n_heads,
            "n_kv_heads": n_kv_heads,
            "head_dim": 16,
            "d_ff": 256 * math.ceil(3.6 * d_model / 256),
            "max_seq_len": 2048,
            "hydra": {"recursions": recursions, "experts": experts[0], "moe_layers": experts[1]},
        }
    )


SIZES: dict[str, ModelRecipe] = {f"hydra-{name}": _size(shape) for name, (shape, _) in _SHAPES.items()} | {
    f"hydra-{name}-moe": _size(shape, experts) for name, (shape, experts) in _SHAPES.items() if experts is not None
}

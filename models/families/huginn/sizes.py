"""The recurrent shapes of recurrent-pretraining's registry, a small one to train, and the registry's GPT baselines.

Vocabularies are as padded there, to a multiple of 4096 (Gemma's of 512). The baselines have the registry's vocabulary,
widths, depth and heads on a vanilla model: the Llamas with our tied head and norms on queries and keys, the Gemmas with
all that Gemma 2 has, of which the registry's code has part. GPT-2 is in sizes/vanilla.py, with its own vocabulary.
Not here: Weaver, whose blocks are not public, and the Bricks, matrices without attention that only measure hardware.
"""

from __future__ import annotations

from typing import Any

from athanor.models.families.vanilla.sizes import GEMMA_2
from athanor.models.model_recipe import ModelRecipe

_RELEASED = {"sampling": "poisson-lognormal-filling", "norm_gain": True, "qk_bias": True, "init": "takase"}
_EARLY = {"injection": "add", "block": "post-norm", "qk_bias": False, "init": "scaled-orthogonal"}


def _recurrent(
    d_model: int,
    n_heads: int,
    d_ff: int,
    layers: tuple[int, int, int],
    recurrence: tuple[int, int],
    section: dict[str, Any],
    **fields: Any,
) -> ModelRecipe:
    """`layers` of prelude, core and coda; `recurrence`: mean and backpropagation depth."""
    prelude, core, coda = layers
    shape = {
        "vocab_size": 65_536,
        "d_model": d_model,
        "n_layers": prelude + core + coda,
        "n_heads": n_heads,
        "n_kv_heads": n_heads,
        "head_dim": d_model // n_heads,
        "d_ff": d_ff,
        "max_seq_len": 4096,
        "rope_base": 50_000.0,
        "norm_eps": 1e-6 if section.get("block") != "post-norm" else 1e-5,
    }
    ends = {"prelude_layers": prelude, "coda_layers": coda}
    depth = {"mean_recurrence": recurrence[0], "backprop_depth": recurrence[1]}
    return ModelRecipe.model_validate({"family": "huginn", **shape, **fields, "huginn": {**ends, **depth, **section}})


def _baseline(n_layers: int, d_model: int, n_heads: int, n_kv_heads: int, d_ff: int, max_seq_len: int) -> ModelRecipe:
    return ModelRecipe(
        family="vanilla",
        vocab_size=32_768,
        d_model=d_model,
        n_layers=n_layers,
        n_heads=n_heads,
        n_kv_heads=n_kv_heads,
        head_dim=d_model // n_heads,
        d_ff=d_ff,
        max_seq_len=max_seq_len,
        norm_eps=1e-5,
    )


def _gemma(n_layers: int, d_model: int, n_heads: int) -> ModelRecipe:
    return ModelRecipe.model_validate(
        {
            "family": "vanilla",
            "vocab_size": 50_688,
            "d_model": d_model,
            "n_layers": n_layers,
            "n_heads": n_heads,
            "n_kv_heads": n_heads // 2,
            "head_dim": 128,
            "d_ff": 4 * d_model,
            "max_seq_len": 8192,
            "vanilla": GEMMA_2,
        }
    )


_FILL = {**_EARLY, "sampling": "poisson-fill"}
_UNTIED = {**_EARLY, "sampling": "poisson-unbounded", "tied": False}
_LLAMA_2 = {"vocab_size": 32_768, "n_kv_heads": 8}

SIZES: dict[str, ModelRecipe] = {
    "nebel-raven-3.5b": _recurrent(5280, 55, 17_920, (2, 4, 2), (32, 8), _RELEASED),
    "corone-raven-3.5b": _recurrent(5280, 55, 17_920, (2, 4, 2), (32, 8), {**_RELEASED, "block": "pre-norm"}),
    "merseburg-raven-3.5b": _recurrent(
        5280,
        55,
        17_920,
        (2, 4, 2),
        (32, 8),
        {**_RELEASED, "injection": "add", "norm_gain": False, "qk_bias": False, "init": "scaled-orthogonal"},
    ),
    "deluge-raven-4b": _recurrent(7040, 64, 14_080, (2, 4, 2), (32, 8), _FILL),
    "tower-raven-3b": _recurrent(4096, 64, 8192, (2, 8, 2), (32, 8), _FILL),
    "kolk-raven-1.1b": _recurrent(4096, 64, 8192, (1, 4, 1), (24, 8), _FILL),
    "corax-raven-800m": _recurrent(4096, 32, 8192, (1, 2, 1), (20, 4), _FILL),
    "magpie-150m": _recurrent(1024, 32, 3520, (1, 4, 1), (20, 4), _FILL),
    "baby-recurrent-200m": _recurrent(1024, 32, 2816, (1, 4, 1), (20, 4), _UNTIED, **_LLAMA_2),
    "debug-recurrent": _recurrent(
        256, 16, 256, (1, 2, 1), (2, 1), {**_UNTIED, "init": "scaled"}, **_LLAMA_2, max_seq_len=384
    ),
    "huginn-tiny": _recurrent(128, 4, 384, (1, 2, 1), (4, 2), _RELEASED, vocab_size=1024, max_seq_len=512),
    "baby-llama-200m": _baseline(12, 1024, 32, 8, 2816, 4096),
    "baby-llama-long-200m": _baseline(24, 768, 32, 8, 2048, 4096),
    "baby-snake-200m": _baseline(48, 512, 32, 8, 1536, 4096),
    "tiny-llama-190m": _baseline(12, 1024, 32, 4, 2816, 2048),
    "tiny-llama-1.1b": _baseline(22, 2048, 32, 4, 5632, 2048),
    "llama-debug": _baseline(4, 512, 8, 2, 256, 384),
    "pygemma-2-100m": _gemma(3, 768, 6),
    "pygemma-2-500m": _gemma(12, 1536, 12),
    "pygemma-2-1b": _gemma(12, 2048, 16),
    "pygemma-2-2b": _gemma(26, 2048, 16),
}

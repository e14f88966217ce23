"""The controlled baseline in the shape of PolychromaticLM (`models.twin` matches one to any other model), GPT-2's and
Gemma 2's published shapes, and the options that make them what they are."""

from __future__ import annotations

from athanor.models.families.polychromatic import sizes as polychromatic
from athanor.models.families.vanilla.recipe import VanillaRecipe
from athanor.models.model_recipe import ModelRecipe

GPT_2 = VanillaRecipe(positions="learned", norm="layernorm", ffn="gelu", bias=True, qk_norm=False)
GEMMA_2 = VanillaRecipe(
    ffn="geglu",
    branch_norm=True,
    qk_norm=False,
    scale_embedding=True,
    window=4096,
    attention_cap=50.0,
    logit_cap=30.0,
)

SIZES = {
    "vanilla-600m": polychromatic.SIZES["polychromatic-600m"].model_copy(update={"family": "vanilla"}),
    "gpt2-124m": ModelRecipe.model_validate(
        {
            "family": "vanilla",
            "vocab_size": 50_257,
            "d_model": 768,
            "n_layers": 12,
            "n_heads": 12,
            "n_kv_heads": 12,
            "head_dim": 64,
            "d_ff": 3072,
            "max_seq_len": 1024,
            "vanilla": GPT_2,
        }
    ),
    "gemma-2-2b": ModelRecipe.model_validate(
        {
            "family": "vanilla",
            "vocab_size": 256_000,
            "d_model": 2304,
            "n_layers": 26,
            "n_heads": 8,
            "n_kv_heads": 4,
            "head_dim": 256,
            "d_ff": 9216,
            "max_seq_len": 8192,
            "vanilla": GEMMA_2,
        }
    ),
}

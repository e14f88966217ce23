"""Huginn: a folder of model.safetensors (or its shards) and config.json, or the trainer's state dict.

The recipe's shapes follow from the tensors; what they do not show comes from config.json and, where it is silent,
from the released 3.5 B model. Of the family's variants this layout holds the released one: sandwich blocks, linear
injection, biases on queries and keys, a tied head.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from athanor.core.disk import write_json
from athanor.kernels.rope import rope_table
from athanor.models.checkpoints.files import CONFIG, WEIGHTS
from athanor.models.checkpoints.layout import Layout, State, count_layers
from athanor.models.families.huginn.recipe import HuginnRecipe
from athanor.models.skeleton import LanguageModel

STACKS = {"prelude": "prelude", "core_block": "core.blocks", "coda": "coda"}
BLOCK = {
    "norm_1.weight": ("attention_norm.gain",),
    "attn.qk_bias": ("attention.query_bias", "attention.key_bias"),
    "attn.Wqkv.weight": ("attention.query_key_value.weight",),
    "attn.proj.weight": ("attention.out.weight",),
    "norm_2.weight": ("attention_sum_norm.gain",),
    "norm_3.weight": ("ffn_norm.gain",),
    "mlp.fc.weight": ("ffn.gate_up.weight",),
    "mlp.proj.weight": ("ffn.down.weight",),
    "norm_4.weight": ("ffn_sum_norm.gain",),
}
NAMES = {
    "transformer.wte.weight": ("embedding.weight",),
    **{
        f"transformer.{theirs}.{{}}.{name}": tuple(f"{ours}.{{}}.{part}" for part in parts)
        for theirs, ours in STACKS.items()
        for name, parts in BLOCK.items()
    },
    "transformer.adapter.weight": ("core.adapter.weight",),
    "transformer.ln_f.weight": ("final_norm.gain",),
}
# Theirs -> our fields: in config.json alone.
RECIPE_KEYS = {"rope_base": "rope_base", "norm_eps": "norm_eps"}
SECTION_KEYS = {
    "mean_recurrence": "mean_recurrence",
    "mean_backprop_depth": "backprop_depth",
    "sampling_scheme": "sampling",
    "init_strategy": "init",
}


NOISE_KEYS = ("test_time_noise", "test_time_noise_type")


def _fields(state: State, config: Mapping[str, Any]) -> dict[str, Any]:
    vocab_size, d_model = state["transformer.wte.weight"].shape
    _, _, n_heads, head_dim = state["transformer.prelude.0.attn.qk_bias"].shape
    prelude, core, coda = (count_layers(state, f"transformer.{stack}.") for stack in STACKS)
    section = {ours: config[theirs] for theirs, ours in SECTION_KEYS.items() if theirs in config}
    if config.get("test_time_noise"):  # theirs is 0 where ours is none
        section |= {name: config[name] for name in NOISE_KEYS if name in config}
    return {
        "family": "huginn",
        "vocab_size": vocab_size,
        "d_model": d_model,
        "n_layers": prelude + core + coda,
        "n_heads": n_heads,
        "n_kv_heads": n_heads,
        "head_dim": head_dim,
        "d_ff": state["transformer.prelude.0.mlp.proj.weight"].shape[1],
        "max_seq_len": state["freqs_cis"].shape[1] if "freqs_cis" in state else config.get("block_size", 4096),
        "rope_base": 50_000.0,
        **{ours: config[theirs] for theirs, ours in RECIPE_KEYS.items() if theirs in config},
        "huginn": {"prelude_layers": prelude, "coda_layers": coda, **section},
    }


def _tables(model: LanguageModel) -> dict[str, Tensor]:
    """Cosines and sines side by side, `[1, T, 1, head_dim / 2, 2]`, fp32 whatever the weights are, bit for bit."""
    recipe = model.recipe
    position_1T = torch.arange(recipe.max_seq_len, device=model.embedding.weight.device)[None]
    table_2Td = rope_table(position_1T, recipe.head_dim, recipe.rope_base)[:, 0]
    return {"freqs_cis": table_2Td.permute(1, 2, 0)[None, :, None].contiguous()}


def _write(path: Path, tensors: dict[str, Tensor], model: LanguageModel, _steps: int) -> None:
    recipe = model.recipe
    section = recipe.section(HuginnRecipe)
    path.mkdir()
    save_file(tensors, path / WEIGHTS, metadata={"format": "pt"})
    config = {
        "architectures": ["RavenForCausalLM"],
        "model_type": "huginn_raven",
        "n_embd": recipe.d_model,
        "n_heads": recipe.n_heads,
        "n_layers": recipe.n_layers,
        "block_size": recipe.max_seq_len,
        "vocab_size": recipe.vocab_size,
        "padding_multiple": 1,
        "intermediate_size": recipe.d_ff,
        "n_layers_in_prelude": section.prelude_layers,
        "n_layers_in_recurrent_block": recipe.n_layers - section.prelude_layers - section.coda_layers,
        "n_layers_in_coda": section.coda_layers,
        "injection_type": "linear",
        "qk_bias": True,
        "tie_embeddings": True,
        "test_time_noise": section.test_time_noise or 0,
        "test_time_noise_type": section.test_time_noise_type or "fixed",
        **{theirs: getattr(recipe, ours) for theirs, ours in RECIPE_KEYS.items()},
        **{theirs: getattr(section, ours) for theirs, ours in SECTION_KEYS.items()},
    }
    write_json(path / CONFIG, config)


LAYOUT = Layout(
    family="huginn",
    names=NAMES,
    tied_head="lm_head.weight",
    tables=_tables,
    fields=_fields,
    write=_write,
    model_types=("huginn_raven",),
    beside=("curriculum_step",),  # of training alone: a model read from there has no curriculum
    caveat=lambda _: "draws other initial states, and attends to padding",
    shapes={
        f"transformer.{stack}.{{}}.attn.qk_bias": lambda recipe: (2, 1, recipe.n_heads, recipe.head_dim)
        for stack in STACKS
    },
)

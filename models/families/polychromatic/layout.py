"""PolychromaticLM: one .pt file of tensors, optimizer, scheduler, step and tau.

The recipe follows from the shapes, but for rope_base and norm_eps, which are the published 10,000 and 1e-6.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from athanor.kernels.rope import rope_table
from athanor.models.checkpoints.layout import Layout, State, count_layers
from athanor.models.families.polychromatic.recipe import PolychromaticRecipe
from athanor.models.model_recipe import ModelRecipe
from athanor.models.skeleton import LanguageModel

NAMES = {
    "embeddings.weight": ("embedding.weight",),
    "model_core.{}.rmsnorm_1.gama": ("blocks.{}.attention_norm.gain",),
    "model_core.{}.gqa.W_q.weight": ("blocks.{}.attention.query.weight",),
    "model_core.{}.gqa.W_k.weight": ("blocks.{}.attention.key.weight",),
    "model_core.{}.gqa.W_v.weight": ("blocks.{}.attention.value.weight",),
    "model_core.{}.gqa.W_o.weight": ("blocks.{}.attention.out.weight",),
    "model_core.{}.gqa.rmsnorm_q.gama": ("blocks.{}.attention.query_norm.gain",),
    "model_core.{}.gqa.rmsnorm_k.gama": ("blocks.{}.attention.key_norm.gain",),
    "model_core.{}.rmsnorm_2.gama": ("blocks.{}.ffn_norm.gain",),
    "model_core.{}.polyglu.W_gate.weight": ("blocks.{}.ffn.gate.weight",),
    "model_core.{}.polyglu.W_up.weight": ("blocks.{}.ffn.up.weight",),
    "model_core.{}.polyglu.W_down.weight": ("blocks.{}.ffn.down.weight",),
    "model_core.{}.polyglu.alpha": ("blocks.{}.ffn.router.alpha",),
    "model_core.{}.polyglu.beta": ("blocks.{}.ffn.router.beta",),
    "model_core.{}.polyglu.gate_net.0.weight": ("blocks.{}.ffn.router.reduce.weight",),
    "model_core.{}.polyglu.gate_net.0.bias": ("blocks.{}.ffn.router.reduce.bias",),
    "model_core.{}.polyglu.gate_net.2.weight": ("blocks.{}.ffn.router.expand.weight",),
    "model_core.{}.polyglu.gate_net.2.bias": ("blocks.{}.ffn.router.expand.bias",),
    "rmsnorm.gama": ("final_norm.gain",),
}


def _fields(state: State, _config: Mapping[str, Any]) -> dict[str, Any]:
    vocab_size, d_model = state["embeddings.weight"].shape
    head_dim = len(state["model_core.0.gqa.rmsnorm_q.gama"])
    return {
        "family": "polychromatic",
        "vocab_size": vocab_size,
        "d_model": d_model,
        "n_layers": count_layers(state, "model_core."),
        "n_heads": len(state["model_core.0.gqa.W_q.weight"]) // head_dim,
        "n_kv_heads": len(state["model_core.0.gqa.W_k.weight"]) // head_dim,
        "head_dim": head_dim,
        "d_ff": len(state["model_core.0.polyglu.W_gate.weight"]),
        "max_seq_len": len(state["rope.cosines"]) if "rope.cosines" in state else 4096,
        "polychromatic": {"pool": "sequence", "gate_width": len(state["model_core.0.polyglu.gate_net.0.bias"])},
    }


def _tables(model: LanguageModel) -> dict[str, Tensor]:
    """Rotation tables in the weights' dtype, since the published code casts the whole model."""
    recipe, like = model.recipe, model.embedding.weight
    position_1T = torch.arange(recipe.max_seq_len, device=like.device)[None]
    cosines, sines = rope_table(position_1T, recipe.head_dim, recipe.rope_base)[:, 0].to(like.dtype)
    return {"rope.cosines": cosines, "rope.sins": sines}


def _write(path: Path, tensors: dict[str, Tensor], model: LanguageModel, steps: int) -> None:
    tau = float(str(model.get_buffer("tau").float().cpu().numpy()))  # 0.7, not the 0.69999998 that fp32 makes of it
    empty = {"optimizer_state_dict": {}, "scheduler_state_dict": {}}
    torch.save({"model_state_dict": tensors, **empty, "step": steps, "tau": tau}, path)


def _caveat(recipe: ModelRecipe) -> str:
    noise = "adds routing noise in evaluation too"
    if recipe.section(PolychromaticRecipe).pool == "sequence":
        return noise
    return f"{noise}, and lets its gate average over the whole row where this model's reads the document so far"


LAYOUT = Layout(
    family="polychromatic",
    names=NAMES,
    tied_head="output_head.weight",
    tables=_tables,
    fields=_fields,
    write=_write,
    caveat=_caveat,
    beside=("tau",),
    keeps_steps=True,
)

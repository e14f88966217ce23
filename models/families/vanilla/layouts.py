"""Hugging Face's folders of plain decoders: Llama, Qwen3, GPT-2, Gemma 2. They are read, not written.

Shapes follow from the tensors; what these do not show comes from config.json and, where it is silent, from the defaults
of the transformers library, which leaves out what equals them. A config that asks for what this family has not is
refused by its field.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from athanor.core.errors import UserError
from athanor.models.checkpoints.files import CONFIG
from athanor.models.checkpoints.layout import Layout, State, count_layers
from athanor.models.families.vanilla.sizes import GEMMA_2, GPT_2

Config = Mapping[str, Any]
_HEAD = "lm_head.weight"
_LLAMA_BLOCK = {
    "input_layernorm.weight": "attention_norm.gain",
    "self_attn.q_proj.weight": "attention.query.weight",
    "self_attn.k_proj.weight": "attention.key.weight",
    "self_attn.v_proj.weight": "attention.value.weight",
    "self_attn.o_proj.weight": "attention.out.weight",
    "post_attention_layernorm.weight": "ffn_norm.gain",
    "mlp.gate_proj.weight": "ffn.gate.weight",
    "mlp.up_proj.weight": "ffn.up.weight",
    "mlp.down_proj.weight": "ffn.down.weight",
}
_QWEN3_BLOCK = {
    **_LLAMA_BLOCK,
    "self_attn.q_norm.weight": "attention.query_norm.gain",
    "self_attn.k_norm.weight": "attention.key_norm.gain",
}
_GEMMA_2_BLOCK = {
    **_LLAMA_BLOCK,
    "post_attention_layernorm.weight": "attention_branch_norm.gain",
    "pre_feedforward_layernorm.weight": "ffn_norm.gain",
    "post_feedforward_layernorm.weight": "ffn_branch_norm.gain",
}
_GPT_2_NORMS = {"ln_1": "attention_norm", "ln_2": "ffn_norm"}
_GPT_2_LINEARS = {
    "attn.c_attn": ("attention.query", "attention.key", "attention.value"),
    "attn.c_proj": ("attention.out",),
    "mlp.c_fc": ("ffn.up",),
    "mlp.c_proj": ("ffn.down",),
}


def _names(block: Mapping[str, str]) -> dict[str, tuple[str, ...]]:
    layers = {f"model.layers.{{}}.{theirs}": (f"blocks.{{}}.{ours}",) for theirs, ours in block.items()}
    ends = {"model.norm.weight": ("final_norm.gain",), _HEAD: ("head.weight",)}
    return {"model.embed_tokens.weight": ("embedding.weight",), **layers, **ends}


_GPT_2_NAMES = {
    "wte.weight": ("embedding.weight",),
    "wpe.weight": ("position_embedding.weight",),
    **{
        f"h.{{}}.{theirs}.{part}": (f"blocks.{{}}.{ours}.{ours_part}",)
        for theirs, ours in _GPT_2_NORMS.items()
        for part, ours_part in (("weight", "gain"), ("bias", "bias"))
    },
    **{
        f"h.{{}}.{theirs}.{part}": tuple(f"blocks.{{}}.{one}.{part}" for one in ours)
        for theirs, ours in _GPT_2_LINEARS.items()
        for part in ("weight", "bias")
    },
    "ln_f.weight": ("final_norm.gain",),
    "ln_f.bias": ("final_norm.bias",),
}


def _refuse(config: Config, **supported: Any) -> None:
    """Raise UserError for a field of config.json that says anything but what is supported."""
    for name, value in supported.items():
        if (said := config.get(name, value)) != value:
            raise UserError(f"{CONFIG} says {name}={said!r}, of which this import knows {value!r} alone")


def _rope_base(config: Config) -> float:
    """The base of plain rotations. Transformers 5 writes them as one object, older versions as two fields."""
    rope = {**(config.get("rope_scaling") or {}), **(config.get("rope_parameters") or {})}
    _refuse({"rope_type": rope.get("type", "default"), **rope}, rope_type="default", partial_rotary_factor=1.0)
    return rope.get("rope_theta", config.get("rope_theta", 10_000.0))


def _decoder(state: State, config: Config, head_dim: int, max_seq_len: int) -> dict[str, Any]:
    """What Llama, Qwen3 and Gemma 2 have in common; `max_seq_len` where config.json is silent."""
    _refuse(config, attention_bias=False, mlp_bias=False)
    vocab_size, d_model = state["model.embed_tokens.weight"].shape
    attention = "model.layers.0.self_attn"
    return {
        "family": "vanilla",
        "vocab_size": vocab_size,
        "d_model": d_model,
        "n_layers": count_layers(state, "model.layers."),
        "n_heads": len(state[f"{attention}.q_proj.weight"]) // head_dim,
        "n_kv_heads": len(state[f"{attention}.k_proj.weight"]) // head_dim,
        "head_dim": head_dim,
        "d_ff": len(state["model.layers.0.mlp.gate_proj.weight"]),
        "max_seq_len": config.get("max_position_embeddings", max_seq_len),
        "rope_base": _rope_base(config),
        "norm_eps": config.get("rms_norm_eps", 1e-6),
    }


def _tied(state: State, config: Config) -> dict[str, Any]:
    """A head that is stored is one of its own, unless the config says otherwise."""
    return {} if _HEAD not in state or config.get("tie_word_embeddings") else {"tied": False}


def _llama(state: State, config: Config) -> dict[str, Any]:
    _refuse(config, hidden_act="silu")
    width = state["model.embed_tokens.weight"].shape[1]
    head_dim = config.get("head_dim") or width // config.get("num_attention_heads", 32)
    return {**_decoder(state, config, head_dim, 2048), "vanilla": {"qk_norm": False, **_tied(state, config)}}


def _qwen3(state: State, config: Config) -> dict[str, Any]:
    _refuse(config, hidden_act="silu", use_sliding_window=False)
    head_dim = len(state["model.layers.0.self_attn.q_norm.weight"])
    return {**_decoder(state, config, head_dim, 32_768), "vanilla": _tied(state, config)}


def _gemma_2(state: State, config: Config) -> dict[str, Any]:
    head_dim = config.get("head_dim", 256)
    fields = _decoder(state, config, head_dim, 8192)
    kinds = [("full_attention", "sliding_attention")[layer % 2 == 0] for layer in range(fields["n_layers"])]
    # Scores are divided by the square root of a number of its own, here always that of the head's channels.
    _refuse({"query_pre_attn_scalar": 256, **config}, query_pre_attn_scalar=head_dim)
    _refuse(config, hidden_activation="gelu_pytorch_tanh", layer_types=kinds)
    section = GEMMA_2.model_dump() | {
        "window": config.get("sliding_window", 4096),
        "attention_cap": config.get("attn_logit_softcapping", 50.0),
        "logit_cap": config.get("final_logit_softcapping", 30.0),
    }
    return {**fields, "vanilla": section}


def _gpt_2(state: State, config: Config) -> dict[str, Any]:
    _refuse(config, activation_function="gelu_new", layer_norm_epsilon=1e-5, scale_attn_weights=True)
    _refuse(config, scale_attn_by_inverse_layer_idx=False, add_cross_attention=False)
    vocab_size, d_model = state["wte.weight"].shape
    n_heads = config.get("n_head", 12)
    return {
        "family": "vanilla",
        "vocab_size": vocab_size,
        "d_model": d_model,
        "n_layers": count_layers(state, "h."),
        "n_heads": n_heads,
        "n_kv_heads": n_heads,
        "head_dim": d_model // n_heads,
        "d_ff": state["h.0.mlp.c_fc.weight"].shape[1],
        "max_seq_len": len(state["wpe.weight"]),
        "vanilla": GPT_2.model_dump(),
    }


def _one_more(gain_D: Tensor) -> Tensor:
    """Gemma's norms multiply by 1 + weight; in fp32, for half precision would round the sum."""
    return 1.0 + gain_D.float()


_ROTATIONS = r"rotary_emb\.inv_freq$"  # of older versions of transformers
_NORMS = [name for name in _names(_GEMMA_2_BLOCK) if name.endswith("norm.weight")]


def _layout(block: Mapping[str, str], model_type: str, fields: Any, **more: Any) -> Layout:
    return Layout(
        family="vanilla",
        names=_names(block),
        tied_head=_HEAD,
        tables=lambda _: {},
        fields=fields,
        model_types=(model_type,),
        left_out=_ROTATIONS,
        **more,
    )


LAYOUTS = {
    "llama": _layout(_LLAMA_BLOCK, "llama", _llama),
    "qwen3": _layout(_QWEN3_BLOCK, "qwen3", _qwen3),
    "gemma2": _layout(_GEMMA_2_BLOCK, "gemma2", _gemma_2, turned=dict.fromkeys(_NORMS, _one_more)),
    "gpt2": Layout(
        family="vanilla",
        names=_GPT_2_NAMES,
        tied_head=_HEAD,
        tables=lambda _: {},
        fields=_gpt_2,
        model_types=("gpt2",),
        prefix="transformer.",
        left_out=r"\.attn\.(masked_)?bias$",  # masks
        turned={f"h.{{}}.{name}.weight": Tensor.t for name in _GPT_2_LINEARS},  # stored as inputs by outputs
    ),
}

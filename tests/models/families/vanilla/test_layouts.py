"""Hugging Face's folders of plain decoders are read tensor for tensor, and what this family has not is refused.

The folders are written here as the transformers library writes them; its own models gave the same logits as the imports
to 1e-5 (fp32, version 5.24).
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from athanor.core.errors import UserError
from athanor.models.checkpoints.foreign import export_checkpoint, import_checkpoint

LLAMA = {
    "embedding.weight": "model.embed_tokens.weight",
    "final_norm.gain": "model.norm.weight",
    "head.weight": "lm_head.weight",
    "attention_norm.gain": "input_layernorm.weight",
    "attention.query.weight": "self_attn.q_proj.weight",
    "attention.key.weight": "self_attn.k_proj.weight",
    "attention.value.weight": "self_attn.v_proj.weight",
    "attention.out.weight": "self_attn.o_proj.weight",
    "ffn_norm.gain": "post_attention_layernorm.weight",
    "ffn.gate.weight": "mlp.gate_proj.weight",
    "ffn.up.weight": "mlp.up_proj.weight",
    "ffn.down.weight": "mlp.down_proj.weight",
}
QWEN_3 = {
    **LLAMA,
    "attention.query_norm.gain": "self_attn.q_norm.weight",
    "attention.key_norm.gain": "self_attn.k_norm.weight",
}
GEMMA_2 = {
    **LLAMA,
    "attention_branch_norm.gain": "post_attention_layernorm.weight",
    "ffn_norm.gain": "pre_feedforward_layernorm.weight",
    "ffn_branch_norm.gain": "post_feedforward_layernorm.weight",
}
SHAPE = {"head_dim": 8, "max_position_embeddings": 64, "num_attention_heads": 4}
IDS = torch.arange(1, 41).view(2, 20)


def renamed(model, names: dict[str, str]) -> dict[str, torch.Tensor]:
    """The model's tensors by their names; `blocks.3.` becomes `model.layers.3.`."""
    theirs = {}
    for name, tensor in model.state_dict().items():
        block, _, rest = name.removeprefix("blocks.").partition(".") if name.startswith("blocks.") else ("", "", name)
        theirs[f"model.layers.{block}.{names[rest]}" if block else names[rest]] = tensor.clone()
    return theirs


def gpt_2(model) -> dict[str, torch.Tensor]:
    """Queries, keys and values in one matrix; matrices are inputs by outputs."""
    ours = model.state_dict()
    theirs = {"wte.weight": ours["embedding.weight"], "wpe.weight": ours["position_embedding.weight"]}
    theirs |= {f"ln_f.{t}": ours[f"final_norm.{o}"] for t, o in (("weight", "gain"), ("bias", "bias"))}
    for i in range(model.recipe.n_layers):
        for t, o in (("ln_1", "attention_norm"), ("ln_2", "ffn_norm")):
            theirs[f"h.{i}.{t}.weight"], theirs[f"h.{i}.{t}.bias"] = (
                ours[f"blocks.{i}.{o}.{part}"] for part in ("gain", "bias")
            )
        for t, parts in (
            ("attn.c_attn", ("attention.query", "attention.key", "attention.value")),
            ("attn.c_proj", ("attention.out",)),
            ("mlp.c_fc", ("ffn.up",)),
            ("mlp.c_proj", ("ffn.down",)),
        ):
            theirs[f"h.{i}.{t}.weight"] = torch.cat([ours[f"blocks.{i}.{p}.weight"] for p in parts]).T
            theirs[f"h.{i}.{t}.bias"] = torch.cat([ours[f"blocks.{i}.{p}.bias"] for p in parts])
    return theirs


def write(folder: Path, tensors: dict[str, torch.Tensor], **config) -> Path:
    folder.mkdir(exist_ok=True)
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture
def folder(lively_model, tmp_path):
    """Write the folder of a kind; returns it and the model it is of."""

    def make(kind: str, **config):
        where = tmp_path / kind
        if kind == "gpt2":
            model = lively_model("vanilla gpt2", head_dim=6)
            return write(where, gpt_2(model), model_type="gpt2", n_head=4, **config), model
        if kind == "gemma2":
            model = lively_model("vanilla gemma2")
            theirs = renamed(model, GEMMA_2)
            theirs |= {name: tensor - 1.0 for name, tensor in theirs.items() if name.endswith("norm.weight")}
            caps = {"attn_logit_softcapping": 2.0, "final_logit_softcapping": 3.0, "sliding_window": 3}
            fields = {"model_type": "gemma2", **SHAPE, **caps, "query_pre_attn_scalar": 8, **config}
            return write(where, theirs, **fields), model
        kind, _, untied = kind.partition(" ")
        section = {"qk_norm": kind == "qwen3", "tied": not untied}
        model = lively_model("vanilla", rope_base=5000.0, vanilla=section)
        names = QWEN_3 if kind == "qwen3" else LLAMA
        fields = {"model_type": kind, **SHAPE, "rope_theta": 5000.0, "rms_norm_eps": 1e-6, **config}
        return write(where, renamed(model, names), **fields), model

    return make


@pytest.mark.parametrize("kind", ["llama", "llama untied", "qwen3", "qwen3 untied", "gemma2", "gpt2"])
@torch.no_grad()
def test_a_folder_is_the_model_it_was_written_of(kind, folder):
    place, model = folder(kind)
    imported = import_checkpoint(place).model
    torch.testing.assert_close(imported(IDS), model(IDS), atol=2e-5, rtol=0)
    assert imported.recipe.model_dump(exclude={"vanilla"}) == model.recipe.model_dump(exclude={"vanilla"})
    assert imported.section == model.section


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
@torch.no_grad()
def test_what_hugging_face_adds_or_leaves_out_is_no_matter(kind, folder):
    place, model = folder(kind)
    theirs = load_file(place / "model.safetensors")
    if kind == "gpt2":
        theirs = {f"transformer.{name}": tensor for name, tensor in theirs.items()}
        theirs |= {"transformer.h.0.attn.bias": torch.ones(1, 1, 64, 64), "lm_head.weight": model.embedding.weight}
    else:
        theirs |= {
            "model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4),
            "lm_head.weight": model.embedding.weight,
        }
    config = json.loads((place / "config.json").read_text()) | {"tie_word_embeddings": True}
    rope = {"rope_parameters": {"rope_type": "default", "rope_theta": config.pop("rope_theta", None)}}
    write(place, {n: t.detach().clone() for n, t in theirs.items()}, **config, **(rope if kind == "llama" else {}))
    torch.testing.assert_close(import_checkpoint(place).model(IDS), model(IDS), atol=2e-5, rtol=0)


def test_gains_of_gemma_keep_what_half_precision_would_round(folder):
    place, _ = folder("gemma2")
    theirs = {name: tensor.bfloat16() for name, tensor in load_file(place / "model.safetensors").items()}
    write(place, theirs, **json.loads((place / "config.json").read_text()))
    gain = import_checkpoint(place).model.final_norm.gain
    assert torch.equal(gain - 1.0, theirs["model.norm.weight"].float()) and gain.dtype == torch.float32


REFUSED = {
    "an untied head": ("llama", {"tie_word_embeddings": True}, "untied head"),
    "scaled rotations": ("llama", {"rope_scaling": {"rope_type": "llama3", "factor": 32.0}}, "rope_type='llama3', of"),
    "partial rotations": ("llama", {"rope_parameters": {"partial_rotary_factor": 0.5}}, "partial_rotary_factor=0.5"),
    "biases": ("qwen3", {"attention_bias": True}, "attention_bias=True, of which this import knows False alone"),
    "windows": ("qwen3", {"use_sliding_window": True}, "use_sliding_window=True"),
    "another gate": ("llama", {"hidden_act": "gelu"}, "hidden_act='gelu', of which"),
    "another scale": ("gemma2", {"query_pre_attn_scalar": 144}, "query_pre_attn_scalar=144, of which .* knows 8"),
    "another order": ("gemma2", {"layer_types": ["full_attention"] * 3}, "layer_types=.*full_attention"),
    "another norm": ("gpt2", {"layer_norm_epsilon": 1e-6}, "layer_norm_epsilon=1e-06"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_this_family_has_not_is_refused_by_its_field(what, folder):
    kind, config, message = REFUSED[what]
    place, _ = folder(kind, **config)
    if what == "an untied head":
        theirs = load_file(place / "model.safetensors")
        said = json.loads((place / "config.json").read_text())
        write(place, {**theirs, "lm_head.weight": theirs["model.embed_tokens.weight"] + 1}, **said)
    with pytest.raises(UserError, match=message) as refused:
        import_checkpoint(place)
    assert "\n" not in str(refused.value)


def test_a_folder_of_no_known_kind_says_what_it_calls_itself(folder):
    place, model = folder("llama", model_type="mistral")
    with pytest.raises(UserError, match=r"in no layout known here: config\.json says model_type='mistral'; .*qwen3"):
        import_checkpoint(place)
    with pytest.raises(UserError, match="the qwen3 layout is read, not written; huginn, polychromatic are written"):
        export_checkpoint(model, place / "x", "qwen3", steps=0)

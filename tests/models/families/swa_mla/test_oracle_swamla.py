"""The published SWA-MLA's logits and loss from its own weights, its mask and its rotation repaired ("fixed")."""

import pytest
import torch

from athanor.models.build import build_model
from athanor.models.model_recipe import ModelRecipe

WINDOW_NAMES = {
    "norm1.weight": "attention_norm.gain",
    "norm2.weight": "ffn_norm.gain",
    "attn.q_proj.weight": "attention.query.weight",
    "attn.k_proj.weight": "attention.key.weight",
    "attn.v_proj.weight": "attention.value.weight",
    "attn.o_proj.weight": "attention.out.weight",
    "mlp.down_proj.weight": "ffn.down.weight",
}
LATENT_NAMES = {
    "attn_norm.weight": "attention_norm.gain",
    "ffn_norm.weight": "ffn_norm.gain",
    "attn.wq.weight": "attention.query.weight",
    "attn.wq_a.weight": "attention.query_reduce.weight",
    "attn.q_norm.weight": "attention.query_norm.gain",
    "attn.q_norm.bias": "attention.query_norm.bias",
    "attn.wq_b.weight": "attention.query.weight",
    "attn.wkv_a.weight": "attention.kv_reduce.weight",
    "attn.kv_norm.weight": "attention.kv_norm.gain",
    "attn.kv_norm.bias": "attention.kv_norm.bias",
    "attn.wkv_b.weight": "attention.kv_expand.weight",
    "attn.wo.weight": "attention.out.weight",
    "ffn.down_proj.weight": "ffn.down.weight",
}
BLOCK_NAMES = WINDOW_NAMES | LATENT_NAMES
OTHER_NAMES = {"transformer.wte.weight": "embedding.weight", "transformer.ln_f.weight": "final_norm.gain"}


def our_weights(state):
    """Our names; of the joint matrix, the first half is the value and the second the gate."""
    weights = {ours: state[name] for name, ours in OTHER_NAMES.items()}
    for name, tensor in state.items():
        if not name.startswith("transformer.h.") or name.endswith("attn.mask"):
            continue
        _, _, layer, rest = name.split(".", 3)
        if rest.endswith("gate_up_proj.weight"):
            up, gate = tensor.chunk(2)
            weights |= {f"blocks.{layer}.ffn.up.weight": up, f"blocks.{layer}.ffn.gate.weight": gate}
        else:
            weights[f"blocks.{layer}.{BLOCK_NAMES[rest]}"] = tensor
    return weights


def kinds(state, layers):
    """Which layers attend to latents."""
    return [f"transformer.h.{layer}.attn.wkv_a.weight" in state for layer in range(layers)]


@pytest.fixture
def published(oracle_path):
    """The reference file, and our model with its weights."""
    file = torch.load(oracle_path("swamla.pt"), weights_only=True)
    cfg, state = file["cfg"], file["state_dict"]
    latent = kinds(state, cfg["n_layer"])
    n_swa = [*latent, True].index(True)
    n_mla = [*latent[n_swa:], False].index(False)
    recipe = ModelRecipe(
        family="swa_mla",
        vocab_size=cfg["vocab_size"],
        d_model=cfg["n_embd"],
        n_layers=cfg["n_layer"],
        n_heads=cfg["n_head"],
        n_kv_heads=cfg["n_head"] // cfg["ratio_kv"],
        head_dim=cfg["n_embd"] // cfg["n_head"],
        d_ff=len(state["transformer.h.0.mlp.gate_up_proj.weight"]) // 2,
        max_seq_len=cfg["block_size"],
        swa_mla={
            "n_swa": n_swa,
            "n_mla": n_mla,
            "window": cfg["swa_window"],
            "sink": cfg["swa_sink_size"],
            "window_inclusive_compat": True,
            "kv_rank": cfg["kv_lora_rank"],
            "q_rank": cfg["q_lora_rank"],
            "qk_nope_dim": cfg["qk_nope_head_dim"],
            "qk_rope_dim": cfg["qk_rope_head_dim"],
            "v_dim": cfg["v_head_dim"],
            "kv_norm": "layernorm",
        },
    )
    model = build_model(recipe)
    model.load_state_dict(our_weights(state))
    return file, model.eval()


@torch.no_grad()
def test_oracle_logits(published):
    file, model = published
    torch.testing.assert_close(model(file["input_ids"]), file["logits"]["fixed"], atol=1e-5, rtol=0)


@torch.no_grad()
def test_oracle_loss(published):
    file, model = published
    loss = model.loss(file["input_ids"], file["targets"])
    torch.testing.assert_close(loss.total / loss.tokens, file["logits"]["fixed_loss"], atol=1e-5, rtol=0)


@torch.no_grad()
def test_oracle_logits_decoded_token_by_token_from_the_caches(published):
    file, model = published
    ids = file["input_ids"]
    cache = model.new_cache(len(ids))
    logits = torch.cat([model(ids[:, t : t + 1], cache=cache) for t in range(ids.shape[1])], dim=1)
    torch.testing.assert_close(logits, file["logits"]["fixed"], atol=1e-5, rtol=0)

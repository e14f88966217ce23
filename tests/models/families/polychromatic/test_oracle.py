"""The published PolychromaticLM's logits, from its own weights (pool="sequence")."""

import pytest
import torch

from athanor.kernels.rope import rope_table
from athanor.models.build import build_model
from athanor.models.model_recipe import ModelRecipe
from athanor.models.skeleton import Context

BLOCK_NAMES = {
    "rmsnorm_1.gama": "attention_norm.gain",
    "rmsnorm_2.gama": "ffn_norm.gain",
    "gqa.W_q.weight": "attention.query.weight",
    "gqa.W_k.weight": "attention.key.weight",
    "gqa.W_v.weight": "attention.value.weight",
    "gqa.W_o.weight": "attention.out.weight",
    "gqa.rmsnorm_q.gama": "attention.query_norm.gain",
    "gqa.rmsnorm_k.gama": "attention.key_norm.gain",
    "polyglu.alpha": "ffn.router.alpha",
    "polyglu.beta": "ffn.router.beta",
    "polyglu.gate_net.0.weight": "ffn.router.reduce.weight",
    "polyglu.gate_net.0.bias": "ffn.router.reduce.bias",
    "polyglu.gate_net.2.weight": "ffn.router.expand.weight",
    "polyglu.gate_net.2.bias": "ffn.router.expand.bias",
    "polyglu.W_gate.weight": "ffn.gate.weight",
    "polyglu.W_up.weight": "ffn.up.weight",
    "polyglu.W_down.weight": "ffn.down.weight",
}
OTHER_NAMES = {"embeddings.weight": "embedding.weight", "rmsnorm.gama": "final_norm.gain"}
DERIVED = {"output_head.weight", "rope.cosines", "rope.sins"}


def our_name(name):
    if name.startswith("model_core."):
        _, layer, rest = name.split(".", 2)
        return f"blocks.{layer}.{BLOCK_NAMES[rest]}"
    return OTHER_NAMES[name]


@pytest.fixture
def published(oracle_path):
    """The reference file, and our model with its weights."""
    file = torch.load(oracle_path("polyglu.pt"), weights_only=True)
    cfg, state = file["cfg"], file["state_dict"]
    recipe = ModelRecipe(
        family="polychromatic",
        vocab_size=cfg["vocab_size"],
        d_model=cfg["d_model"],
        n_layers=cfg["n_layers"],
        n_heads=cfg["n_q_heads"],
        n_kv_heads=cfg["n_kv_heads"],
        head_dim=cfg["head_dim"],
        d_ff=cfg["d_ff"],
        max_seq_len=cfg["seq_length"],
        norm_eps=cfg["eps"],
        polychromatic={
            "pool": "sequence",
            "gate_width": len(state["model_core.0.polyglu.gate_net.0.bias"]),
        },
    )
    with pytest.warns(UserWarning, match="pool=sequence"):
        model = build_model(recipe)
    weights = {our_name(name): tensor for name, tensor in state.items() if name not in DERIVED}
    model.load_state_dict({**weights, "tau": torch.tensor(file["tau"])})
    return file, model.eval()


def test_oracle_deterministic_logits(published):
    file, model = published
    torch.testing.assert_close(model(file["input_ids"]), file["logits"]["deterministic"], atol=1e-5, rtol=0)


def test_oracle_explicit_noise_logits(published):
    file, model = published
    ids, recipe = file["input_ids"], model.recipe
    position_BT = torch.arange(ids.shape[1])[None]
    rope = rope_table(position_BT, recipe.head_dim, recipe.rope_base)
    context = Context(offset=0, position_BT=position_BT, doc_start_BT=None, row_key_B=None, span=None, cache=None)
    x = model.embedding(ids)
    for block, noise_BFK in zip(model.blocks, file["gumbel"], strict=True):
        x, _ = block(x, context, rope, model.tau, noise_BFK)
    logits = model.logits(model.final_norm(x))
    torch.testing.assert_close(logits, file["logits"]["explicit_noise"], atol=1e-5, rtol=0)

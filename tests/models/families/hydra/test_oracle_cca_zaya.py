"""The published CCGQA attention's queries, keys, values and output, from its own weights (ZAYA1)."""

import pytest
import torch

from athanor.models.families.hydra.ccgqa import CCGQA, Positions
from athanor.models.families.hydra.recipe import HydraRecipe
from athanor.models.model_recipe import ModelRecipe

NAMES = {
    "o_proj.weight": "out.weight",
    "qkv_proj.q_proj.weight": "query.weight",
    "qkv_proj.k_proj.weight": "key.weight",
    "qkv_proj.v_proj_current.weight": "value.weight",
    "qkv_proj.v_proj_delayed.weight": "shifted_value.weight",
    "qkv_proj.conv_qk_depthwise.weight": "conv.weight",
    "qkv_proj.conv_qk_depthwise.bias": "conv.bias",
    "qkv_proj.conv_qk_grouped.weight": "mixing.weight",
    "qkv_proj.conv_qk_grouped.bias": "mixing.bias",
}


@pytest.fixture
def published(oracle_path):
    """The reference file, our attention with its weights, and the positions of its tokens."""
    file = torch.load(oracle_path("cca_zaya.pt"), weights_only=True)
    state, (rows, length, d_model) = file["state_dict"], file["x"].shape
    head_dim, heads, groups = file["q"].shape[-1], file["q"].shape[2], file["k"].shape[2]
    recipe = ModelRecipe(
        family="hydra", d_model=d_model, n_layers=1, n_heads=heads, n_kv_heads=groups, head_dim=head_dim, d_ff=1
    )
    section = HydraRecipe(
        conv_kernel=state["qkv_proj.conv_qk_depthwise.weight"].shape[-1],
        mixing_kernel=state["qkv_proj.conv_qk_grouped.weight"].shape[-1],
        conv_bias=True,
        rope_pairing="half-split",
    )
    attention = CCGQA(recipe, section)
    weights = {ours: state[theirs] for theirs, ours in NAMES.items()}
    attention.load_state_dict({**weights, "beta": state["qk_norm.temp"].log()})
    table = torch.stack((file["cos"], file["sin"]))[..., : head_dim // 2]
    return file, attention.eval(), Positions(0, torch.arange(length).expand(rows, length), table, None)


def close(ours, theirs):
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)


@torch.no_grad()
def test_oracle_convolved_and_averaged_queries_and_keys(published):
    file, attention, positions = published
    q, k = attention.mixed(file["x"], positions)
    close(q, file["q"])
    close(k, file["k"])


@torch.no_grad()
def test_oracle_normalised_queries_and_keys(published):
    file, attention, positions = published
    q, k = attention.normed(*attention.mixed(file["x"], positions))
    close(q, file["qn"])
    close(k, file["kn"])


@torch.no_grad()
def test_oracle_shifted_values(published):
    file, attention, positions = published
    close(attention.values(file["x"], positions), file["v"])


@torch.no_grad()
def test_oracle_output(published):
    file, attention, positions = published
    close(attention(file["x"], positions), file["y"])

"""DeepSeek's multi-head latent attention: output and latent cache, from its own weights, both ways of computing."""

import pytest
import torch

from athanor.kernels.rope import rope_table
from athanor.models.families.swa_mla.latent import LatentAttention
from athanor.models.families.swa_mla.recipe import SwaMlaRecipe
from athanor.models.model_recipe import ModelRecipe

NAMES = {
    "wq.weight": "query.weight",
    "wq_a.weight": "query_reduce.weight",
    "q_norm.weight": "query_norm.gain",
    "wq_b.weight": "query.weight",
    "wkv_a.weight": "kv_reduce.weight",
    "kv_norm.weight": "kv_norm.gain",
    "wkv_b.weight": "kv_expand.weight",
    "wo.weight": "out.weight",
}


@pytest.fixture
def cases(oracle_path):
    """Per query rank: our module with the published weights, the rotation table, and the reference numbers."""
    file = torch.load(oracle_path("deepseek_mla.pt"), weights_only=True)
    args = file["args"]
    found = []
    for q_rank, case in file["cases"].items():
        section = SwaMlaRecipe(
            kv_rank=args["kv_lora_rank"],
            q_rank=int(q_rank),
            qk_nope_dim=args["qk_nope_head_dim"],
            qk_rope_dim=args["qk_rope_head_dim"],
            v_dim=args["v_head_dim"],
        )
        recipe = ModelRecipe(
            family="swa_mla",
            d_model=args["dim"],
            n_layers=1,
            n_heads=args["n_heads"],
            n_kv_heads=args["n_heads"],
            d_ff=1,
            swa_mla=section,
        )
        module = LatentAttention(recipe, section)
        module.load_state_dict({NAMES[name]: tensor for name, tensor in case["state_dict"].items()})
        x = case["x"]
        rope = rope_table(torch.arange(x.shape[1])[None], section.qk_rope_dim, args["rope_theta"])
        found.append((module, rope, case))
    assert found
    return found


@torch.no_grad()
def test_oracle_output(cases):
    for module, rope, case in cases:
        torch.testing.assert_close(module(case["x"], rope, None), case["y"], atol=1e-5, rtol=0)


@torch.no_grad()
def test_oracle_absorbed_output(cases):
    for module, rope, case in cases:
        queries, latents = module.queries(case["x"], rope), module.latents(case["x"], rope)
        absorbed = module.out(module.absorbed(*queries, *latents, None).flatten(2))
        torch.testing.assert_close(absorbed, case["y"], atol=1e-5, rtol=0)


@torch.no_grad()
def test_oracle_latent_cache(cases):
    for module, rope, case in cases:
        c, k_rope = module.latents(case["x"], rope)
        torch.testing.assert_close(c, case["kv_cache"], atol=1e-5, rtol=0)
        torch.testing.assert_close(k_rope, case["pe_cache"], atol=1e-5, rtol=0)


@torch.no_grad()
def test_oracle_output_decoded_token_by_token_caches_the_latents_alone(cases):
    for module, rope, case in cases:
        past, found = module.new_past(), []
        for t in range(case["x"].shape[1]):
            found.append(module(case["x"][:, t : t + 1], rope[:, :, t : t + 1], None, past))
        torch.testing.assert_close(torch.cat(found, dim=1), case["y"], atol=1e-5, rtol=0)
        kept = [tensor for tensor in vars(past).values() if isinstance(tensor, torch.Tensor)]
        assert sorted(tensor.shape[2:] for tensor in kept) == sorted(
            (case["kv_cache"].shape[2:], case["pe_cache"].shape[2:])
        )

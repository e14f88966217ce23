"""Tiny models whose weights are large enough for every mechanism to show in the output."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from athanor.models.build import build_model
from athanor.models.family import FAMILIES
from athanor.models.model_recipe import ModelRecipe

SHAPE = dict(vocab_size=61, d_model=24, n_layers=2, n_heads=4, n_kv_heads=2, head_dim=8, d_ff=20, max_seq_len=64)
SWA_MLA = dict(window=3, sink=1, kv_rank=6, qk_nope_dim=4, qk_rope_dim=4, v_dim=6, scale_residual_init=True)
HYDRA = dict(recursions=2, experts=4, moe_layers=1, curriculum=False)
HUGINN = {"prelude_layers": 1, "coda_layers": 1, "mean_recurrence": 3, "backprop_depth": 2}
GPT_2 = {"positions": "learned", "norm": "layernorm", "ffn": "gelu", "bias": True, "qk_norm": False}
GEMMA_2 = {"ffn": "geglu", "branch_norm": True, "qk_norm": False, "scale_embedding": True}
GEMMA_2 |= {"window": 3, "attention_cap": 2.0, "logit_cap": 3.0}
MODES = {  # every family as it comes, and its other modes: fields that differ from SHAPE
    "vanilla": {"family": "vanilla"},
    "vanilla untied": {"family": "vanilla", "vanilla": {"tied": False}},
    "vanilla gpt2": {"family": "vanilla", "n_kv_heads": 4, "vanilla": GPT_2},
    "vanilla gemma2": {"family": "vanilla", "n_layers": 3, "vanilla": GEMMA_2},
    "polychromatic": {"family": "polychromatic"},
    **{
        mode: {"family": "swa_mla", "n_layers": 3, "swa_mla": {**SWA_MLA, **changes}}
        for mode, changes in {
            "swa_mla": {},
            "swa_mla ranks": {"q_rank": 5, "kv_norm": "layernorm"},
            "swa_mla dynamic_tanh": {"norm": "dynamic_tanh"},
            "swa_mla windows alone": {"n_mla": 0, "sink": 4},
            "swa_mla latents alone": {"n_swa": 0},
            "swa_mla dropout": {"dropout": 0.3, "label_smoothing": 0.2},
            "swa_mla scaled": {"logit_scale_base": 4.0, "logit_scale_window": 3, "logit_scale_in_training": True},
            "swa_mla compat": {"window_inclusive_compat": True, "sink": 0, "rope_factor": 2.0},
        }.items()
    },
    **{
        mode: {"family": "hydra", "n_layers": 3, "hydra": {**HYDRA, **changes}}
        for mode, changes in {
            "hydra": {},
            "hydra hard exit": {"mor_exit": "hard", "recursions": 3},
            "hydra expert_choice": {"mor": "expert_choice", "recursions": 3},
            "hydra token_choice": {"mor": "token_choice"},
            "hydra static": {"routing": "static"},
            "hydra first keys": {"mor_kv": "first", "mor_exit": "hard", "recursions": 3, "conv_bias": True},
            "hydra mlp": {"mod_scope": "mlp", "mor_exit": "hard", "recursions": 3},
            "hydra wide": {"conv_kernel": 2, "mixing_kernel": 3, "conv_bias": True, "experts_per_token": 2},
            "hydra attention alone": {"capacity": 1, "recursions": 1, "moe_layers": 0, "rope_pairing": "half-split"},
        }.items()
    },
    "hydra middle_cycle": {
        "family": "hydra",
        "n_layers": 4,
        "hydra": {**HYDRA, "mor_sharing": "middle_cycle", "mor_kv": "first", "mor_exit": "hard", "recursions": 3},
    },
    "huginn": {"family": "huginn", "n_layers": 4, "huginn": HUGINN},
    "huginn pre-norm": {
        "family": "huginn",
        "n_layers": 4,
        "huginn": {**HUGINN, "block": "pre-norm", "norm_gain": False},
    },
    "huginn post-norm": {
        "family": "huginn",
        "n_layers": 4,
        "huginn": {
            **HUGINN,
            "block": "post-norm",
            "injection": "add",
            "qk_bias": False,
            "init": "scaled-orthogonal",
            "tied": False,
            "sampling": "poisson-fill",
        },
    },
}
for mode, changes in {
    "huginn draws": {"draws_per_step": 3},
    "huginn ffn": {"injection": "ffn", "mean_recurrence": 2},
    "huginn gate": {"injection": "gate", "test_time_noise": 0.5, "test_time_noise_type": "chi"},
    "huginn none": {"injection": "none", "sampling": "poisson-fill", "backprop_depth": 3},
}.items():
    MODES[mode] = {"family": "huginn", "n_layers": 4, "huginn": {**HUGINN, **changes}}
for family in FAMILIES.records():  # one that nothing is said of here is as small as it says itself
    MODES.setdefault(family.name, {"family": family.name, family.name: family.laptop})


def pytest_generate_tests(metafunc):
    """A test that asks for `mode` runs in every mode of every family; for `own_mode`, of the family of its folder."""
    if "mode" in metafunc.fixturenames:
        metafunc.parametrize("mode", MODES)
    if "own_mode" in metafunc.fixturenames:
        family = Path(metafunc.module.__file__).parent.name
        metafunc.parametrize("own_mode", [mode for mode, fields in MODES.items() if fields["family"] == family])


@pytest.fixture(scope="session")
def tiny_recipe():
    """Recipe of a mode, a family's name being its first, with some fields changed."""

    def make(mode, **changes):
        return ModelRecipe.model_validate({**SHAPE, **MODES[mode], **changes})

    return make


@pytest.fixture(scope="session")
def lively_model(tiny_recipe):
    """A model in eval mode, every parameter random and of order one, gates and gains included."""

    def make(mode, *, seed=0, **changes):
        model = build_model(tiny_recipe(mode, **changes))
        model.init_weights(seed)
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                spread = 0.5 if parameter.ndim == 1 else parameter.shape[-1] ** -0.5
                if mode.startswith("vanilla") and name.endswith("bias"):  # larger, they would drown the tokens
                    spread = 0.05
                if mode.startswith("huginn"):  # iterated, larger weights would magnify rounding
                    spread *= 0.5
                parameter.add_(torch.randn(parameter.shape, generator=generator) * spread)
        return model.eval()

    return make


@pytest.fixture
def tokenizer_dir(tmp_path):
    """The files of a tokenizer artifact of 61 ids."""
    folder = tmp_path / "tokenizer"
    folder.mkdir()
    (folder / "tokenizer.json").write_text("{}")
    meta = {"vocab_size": SHAPE["vocab_size"], "eos": "<|endoftext|>", "eos_id": 0, "fingerprint": "f"}
    (folder / "meta.json").write_text(json.dumps(meta))
    np.save(folder / "token_bytes.npy", np.ones(SHAPE["vocab_size"], np.int32))
    return folder


class ScriptedModel(torch.nn.Module):
    """Answers whatever it is asked with the same ids, then with the last of them; counts its steps."""

    cacheable = False

    def __init__(self, script, max_seq_len):
        super().__init__()
        self.recipe = SimpleNamespace(max_seq_len=max_seq_len)
        self.embedding = torch.nn.Embedding(max(script) + 1, 1)
        self.script, self.steps, self._seen = script, 0, []

    def hidden(self, ids_BT):
        continues = ids_BT[0, :-1].tolist() == self._seen
        self.steps = self.steps + 1 if continues else 1
        self._seen = ids_BT[0].tolist()
        return ids_BT[..., None].float()

    def logits(self, h_BD):
        choice = torch.tensor([self.script[min(self.steps, len(self.script)) - 1]])
        return torch.nn.functional.one_hot(choice, self.embedding.num_embeddings).float()


@pytest.fixture
def scripted_model():
    return ScriptedModel

"""Tiny models whose weights are large enough for every mechanism to show in the output."""

import json

import numpy as np
import pytest
import torch

from models.build import build_model
from models.config import ModelRecipe

SHAPE = dict(vocab_size=61, d_model=24, n_layers=2, n_heads=4, n_kv_heads=2, head_dim=8, d_ff=20, max_seq_len=64)
MODES = {  # every family as it comes, and its other modes: fields that differ from SHAPE
    "vanilla": {"family": "vanilla"},
    "polychromatic": {"family": "polychromatic"},
}


def pytest_generate_tests(metafunc):
    """A test that asks for `mode` runs in every mode of every family."""
    if "mode" in metafunc.fixturenames:
        metafunc.parametrize("mode", MODES)


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
            for parameter in model.parameters():
                spread = 0.5 if parameter.ndim == 1 else parameter.shape[-1] ** -0.5
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

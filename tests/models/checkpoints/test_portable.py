"""Portable checkpoints: same numbers after a round trip; anything damaged is one line."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from athanor.core.errors import UserError
from athanor.models.checkpoints.portable import load_portable, save_portable

IDS = torch.arange(1, 13).view(2, 6)


@pytest.fixture
def saved(tmp_path, lively_model, tokenizer_dir):
    model = lively_model("polychromatic")
    model.apply_schedule({"tau": 0.25})
    save_portable(tmp_path / "checkpoint", model, tokenizer_dir)
    return tmp_path / "checkpoint"


@torch.no_grad()
def test_round_trip_is_bit_identical(mode, tmp_path, lively_model, tokenizer_dir):
    model = lively_model(mode)
    save_portable(tmp_path / "checkpoint", model, tokenizer_dir)
    loaded = load_portable(tmp_path / "checkpoint")
    assert loaded.recipe == model.recipe
    assert not loaded.training
    assert torch.equal(loaded(IDS), model(IDS))


def test_a_loaded_model_can_be_trained(saved):
    model = load_portable(saved)
    model.train().loss(IDS, IDS).total.backward()
    assert all(p.grad is not None for p in model.parameters())


def test_tau_survives(saved):
    assert load_portable(saved).tau.item() == 0.25


def test_folder_is_complete_and_stores_the_tied_head_once(saved, tokenizer_dir):
    names = {"model.safetensors", "config.json", "tokenizer.json", "tokenizer_meta.json", "token_bytes.npy"}
    assert {path.name for path in saved.iterdir()} == names
    assert (saved / "tokenizer_meta.json").read_bytes() == (tokenizer_dir / "meta.json").read_bytes()
    state = load_file(saved / "model.safetensors")
    assert [name for name, tensor in state.items() if 61 in tensor.shape] == ["embedding.weight"]


def edit_json(path, **changes):
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def edit_state(path, edit):
    state = load_file(path)
    edit(state)
    save_file(state, path)


DAMAGE = {
    "no weights": (lambda d: (d / "model.safetensors").unlink(), "model.safetensors is missing"),
    "no config": (lambda d: (d / "config.json").unlink(), "config.json is missing"),
    "no tokenizer meta": (lambda d: (d / "tokenizer_meta.json").unlink(), "tokenizer_meta.json is missing"),
    "truncated weights": (
        lambda d: (d / "model.safetensors").write_bytes((d / "model.safetensors").read_bytes()[:-7]),
        "cannot be read",
    ),
    "empty weights": (lambda d: (d / "model.safetensors").write_bytes(b""), "cannot be read"),
    "pickled weights": (lambda d: torch.save({}, d / "model.safetensors"), "cannot be read"),
    "truncated config": (lambda d: (d / "config.json").write_text('{"family":'), "cannot be read"),
    "binary config": (lambda d: (d / "config.json").write_bytes(b"\xff\xfe\x00"), "cannot be read"),
    "config that is a list": (lambda d: (d / "config.json").write_text("[]"), "config.json"),
    "unknown family": (lambda d: edit_json(d / "config.json", family="gpt9"), "family"),
    "unknown field": (lambda d: edit_json(d / "config.json", n_layer=3), "n_layer"),
    "no vocabulary": (lambda d: edit_json(d / "config.json", vocab_size=None), "vocab_size"),
    "other width": (lambda d: edit_json(d / "config.json", d_ff=21), "shape"),
    "more layers": (lambda d: edit_json(d / "config.json", n_layers=3), r"lacks tensor blocks\.2"),
    "fewer layers": (lambda d: edit_json(d / "config.json", n_layers=1), r"unexpected tensor blocks\.1"),
    "other family": (lambda d: edit_json(d / "config.json", family="vanilla", polychromatic=None), "unexpected tensor"),
    "lost tensor": (lambda d: edit_state(d / "model.safetensors", lambda s: s.pop("tau")), "lacks tensor tau"),
    "other tokenizer": (lambda d: edit_json(d / "tokenizer_meta.json", vocab_size=99), "two tokenizers"),
    "tokenizer meta that is a list": (lambda d: (d / "tokenizer_meta.json").write_text("[]"), "two tokenizers"),
}


@pytest.mark.parametrize("what", DAMAGE)
def test_damage_is_named_in_one_line(saved, what):
    damage, message = DAMAGE[what]
    damage(saved)
    with pytest.raises(UserError, match=message) as refused:
        load_portable(saved)
    assert "\n" not in str(refused.value)

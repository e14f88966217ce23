"""Weight files of others: tensors come out, nothing that is in them runs, and what is wrong is said in one line."""

import json
import pickle

import pytest
import torch
from safetensors.torch import save_file

from athanor.core.errors import UserError
from athanor.models.checkpoints.stored import read_stored

TENSORS = {"a.weight": torch.arange(6.0).view(2, 3), "b": torch.ones(500)}


class Malice:
    def __reduce__(self):
        return open, ("malice-was-here", "w")


def assert_tensors(found):
    assert found.keys() == TENSORS.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in TENSORS.items())


@pytest.mark.parametrize("key", [None, "model", "model_state_dict"])
@pytest.mark.parametrize("wrapper", ["", "module.", "_orig_mod._original_module."])
def test_tensors_are_found_by_their_bare_names_alone_or_beside_others(key, wrapper, tmp_path):
    tensors = {f"{wrapper}{name}": tensor for name, tensor in TENSORS.items()}
    torch.save(tensors if key is None else {key: tensors, "step": 7}, tmp_path / "x.pt")
    stored = read_stored(tmp_path / "x.pt")
    assert_tensors(stored.tensors)
    assert stored.beside.get("step") == (None if key is None else 7)
    assert stored.config == {}


def test_a_folder_is_read_whole_or_in_shards_with_the_config_beside_it(tmp_path):
    (tmp_path / "config.json").write_text('{"n_embd": 3}')
    save_file(TENSORS, tmp_path / "model.safetensors")
    assert_tensors(read_stored(tmp_path).tensors)
    (tmp_path / "model.safetensors").unlink()
    for name, tensor in TENSORS.items():
        save_file({name: tensor}, tmp_path / f"{name}.safetensors")
    shards = {name: f"{name}.safetensors" for name in TENSORS}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": shards}))
    stored = read_stored(tmp_path)
    assert_tensors(stored.tensors)
    assert stored.config == {"n_embd": 3}


DAMAGE = {
    "missing": (lambda f: f.unlink(), "does not exist"),
    "truncated": (lambda f: f.write_bytes(f.read_bytes()[:-900]), "damaged or cut short|no file of torch.save"),
    "cut in the middle": (lambda f: f.write_bytes(f.read_bytes()[:1500]), "damaged or cut short|no file of torch.save"),
    "empty": (lambda f: f.write_bytes(b""), "damaged or cut short|no file of torch.save"),
    "text": (lambda f: f.write_text("not weights at all"), "no file of torch.save"),
    "a foreign pickle": (lambda f: f.write_bytes(pickle.dumps(Malice())), "could run code"),
    "a pickle among the tensors": (lambda f: torch.save({"model": {}, "args": Malice()}, f), "could run code"),
    "a list": (lambda f: torch.save([torch.zeros(2)], f), "holds list"),
    "no tensors": (lambda f: torch.save({"weights": {}, "epoch": 3}, f), "holds weights, epoch: no tensors by name"),
}


@pytest.mark.parametrize("what", DAMAGE)
def test_a_wrong_file_is_one_clear_line_and_runs_nothing(what, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "theirs.pt"
    torch.save({"model": TENSORS}, file)
    damage, message = DAMAGE[what]
    damage(file)
    with pytest.raises(UserError, match=message) as refused:
        read_stored(file)
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "malice-was-here").exists()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda d: (d / "model.safetensors").write_bytes(b"\x00" * 99), "cannot be read"),
        (lambda d: (d / "model.safetensors").unlink(), "holds neither model.safetensors nor"),
        (lambda d: (d / "config.json").write_text("{"), "config.json cannot be read"),
        (lambda d: (d / "config.json").write_text("[]"), "config.json must hold an object"),
    ],
)
def test_a_wrong_folder_is_one_clear_line(damage, message, tmp_path):
    save_file(TENSORS, tmp_path / "model.safetensors")
    damage(tmp_path)
    with pytest.raises(UserError, match=message) as refused:
        read_stored(tmp_path)
    assert "\n" not in str(refused.value)


def test_shards_outside_their_folder_are_refused(tmp_path):
    (tmp_path / "inside").mkdir()
    save_file(TENSORS, tmp_path / "outside.safetensors")
    index = tmp_path / "inside" / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "../outside.safetensors"}}))
    with pytest.raises(UserError, match="files of its own folder"):
        read_stored(tmp_path / "inside")

"""Checkpoints: exact, whole or not there, of this run or refused."""

import json
import os
import random
import resource

import numpy as np
import pytest
import torch

import athanor.tasks.trainer.records.checkpoint as checkpoint
from athanor.core.disk import write_json
from athanor.core.errors import UserError
from athanor.core.keys import sha256_file
from athanor.tasks.trainer.records.checkpoint import CheckpointFolder, Position, training_tensors
from athanor.tasks.trainer.records.retention import Retention


class Tied(torch.nn.Module):
    tau: torch.Tensor

    def __init__(self):
        super().__init__()
        self.embedding = torch.nn.Embedding(7, 4)
        self.head = torch.nn.Linear(4, 7, bias=False)
        self.head.weight = self.embedding.weight
        self.register_buffer("tau", torch.tensor(1.0))

    def forward(self, ids):
        return self.head(self.embedding(ids)).logsumexp(-1).sum()


def setup(seed: int, steps: int):
    torch.manual_seed(seed)
    model = Tied()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, fused=True)
    for _ in range(steps):
        model(torch.arange(7)).backward()
        optimizer.step()
        optimizer.zero_grad()
    return model, optimizer


def folder(tmp_path, key="key-a", fingerprint="data-a", keep=2) -> CheckpointFolder:
    return CheckpointFolder(tmp_path, key, fingerprint, Retention(keep, anchor_steps=100, permanent_steps=7))


def names(tmp_path) -> list[str]:
    return sorted(path.name for path in tmp_path.iterdir())


@pytest.fixture
def saved(tmp_path):
    """Checkpoints of steps 1 and 2 of a run, and the tensors at step 2."""
    model, optimizer = setup(0, 1)
    folder(tmp_path).save(training_tensors(model, optimizer), Position(1, 10))
    model.tau.fill_(0.5)
    tensors = training_tensors(model, optimizer)
    folder(tmp_path).save(tensors, Position(2, 20))
    return tensors


def load(tmp_path, **fields):
    said: list[str] = []
    tensors = training_tensors(*setup(1, 0))
    checkpoints = folder(tmp_path, **fields)
    found = checkpoints.newest(said.append)
    position = checkpoints.load(found, tensors) if found else None
    return position, tensors, said


def test_load_restores_model_buffers_and_optimizer_bit_for_bit(tmp_path, saved, monkeypatch):
    position, loaded, said = load(tmp_path)
    assert position == Position(2, 20)
    assert said == []
    assert set(loaded) == set(saved)
    assert {"model.tau", "optimizer.embedding.weight.exp_avg", "optimizer.embedding.weight.step"} <= set(loaded)
    assert sum(name.startswith("model.") and name.endswith("weight") for name in loaded) == 1, "tied: stored once"
    assert all(torch.equal(loaded[name], saved[name]) for name in saved)


def test_large_state_is_split_into_files(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint, "FILE_BYTES", 150)
    tensors = training_tensors(*setup(0, 1))
    folder(tmp_path).save(tensors, Position(1, 10))
    assert len(list((tmp_path / "step-00000001").glob("*.safetensors"))) > 1
    _, loaded, _ = load(tmp_path)
    assert all(torch.equal(loaded[name], tensors[name]) for name in tensors)


def test_random_generators_continue_where_they_were(tmp_path):
    def draw():
        return torch.rand(1).item(), np.random.rand(), np.random.randn(), random.random(), random.gauss(0, 1)

    model, optimizer = setup(0, 1)
    draw()
    folder(tmp_path).save(training_tensors(model, optimizer), Position(1, 10))
    expected = [draw(), draw()]
    load(tmp_path)
    assert [draw(), draw()] == expected


def truncate(newest):
    file = next(newest.glob("*.safetensors"))
    os.truncate(file, file.stat().st_size - 1)


def alter(newest):
    file = next(newest.glob("*.safetensors"))
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)


def write_manifest(text):
    return lambda newest: (newest / "manifest.json").write_text(text, encoding="utf-8")


def without(field):
    """A manifest that lacks a field."""

    def take_out(newest):
        manifest = json.loads((newest / "manifest.json").read_text(encoding="utf-8"))
        del manifest[field]
        write_json(newest / "manifest.json", manifest)

    return take_out


def of_another_step(newest):
    manifest = json.loads((newest / "manifest.json").read_text(encoding="utf-8"))
    write_json(newest / "manifest.json", manifest | {"step": 1})


def state(text):
    """Another state, which the manifest vouches for."""

    def write(newest):
        (newest / "state.json").write_text(text, encoding="utf-8")
        manifest = json.loads((newest / "manifest.json").read_text(encoding="utf-8"))
        entry = {"size": len(text), "sha256": sha256_file(newest / "state.json")}
        write_json(newest / "manifest.json", manifest | {"files": manifest["files"] | {"state.json": entry}})

    return write


DAMAGES = {
    "truncated": truncate,
    "altered": alter,
    "no manifest": lambda newest: (newest / "manifest.json").unlink(),
    "torn manifest": lambda newest: os.truncate(newest / "manifest.json", 20),
    "file gone": lambda newest: (newest / "state.json").unlink(),
    "empty manifest": write_manifest("{}"),
    "manifest of nothing": write_manifest('{"files": {}}'),
    "manifest of another kind": write_manifest("[1, 2]"),
    "manifest of no text": lambda newest: (newest / "manifest.json").write_bytes(b"\xff\xfe"),
    "manifest without key": without("key"),
    "manifest without step": without("step"),
    "manifest of another step": of_another_step,
    "state null": state("null"),
    "state without random": state('{"step": 2, "tokens": 20, "state": {}}'),
    "state of wrong types": state('{"step": null, "tokens": 20, "state": {}, "random": {}}'),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES.keys())
def test_a_damaged_checkpoint_is_set_aside_for_the_one_before_it(tmp_path, saved, damage):
    damage(tmp_path / "step-00000002")
    position, loaded, (message,) = load(tmp_path)
    assert position == Position(1, 10)
    assert loaded["model.tau"] == 1.0
    assert "step-00000002 is damaged" in message
    assert names(tmp_path) == ["step-00000001", "step-00000002.damaged"]


def test_a_save_that_was_cut_short_is_never_loaded(tmp_path, saved):
    (tmp_path / "step-00000002").rename(tmp_path / "step-00000003.partial")
    assert load(tmp_path)[0] == Position(1, 10)


def test_no_checkpoint_leaves_everything_as_it_was(tmp_path):
    assert folder(tmp_path).newest(pytest.fail) is None


@pytest.mark.parametrize("field", ["key", "fingerprint"])
def test_a_checkpoint_of_another_key_or_data_order_is_refused_naming_both(tmp_path, saved, field):
    with pytest.raises(UserError) as refused:
        load(tmp_path, **{field: "other"})
    message = str(refused.value)
    assert "other" in message
    assert ("key-a" if field == "key" else "data-a") in message
    assert "\n" not in message
    assert names(tmp_path) == ["step-00000001", "step-00000002"]


def test_the_newest_are_kept_and_leftovers_are_removed(tmp_path):
    (tmp_path / "step-00000001.partial").mkdir()
    model, optimizer = setup(0, 1)
    for step in range(1, 6):
        folder(tmp_path, keep=3).save(training_tensors(model, optimizer), Position(step, step))
    assert names(tmp_path) == ["step-00000003", "step-00000004", "step-00000005"]


def test_anchors_and_permanent_checkpoints_outlive_the_newest():
    steps = [7, 14, 100, 150, 200, 210, 300, 301, 302]
    assert Retention(newest=2, anchor_steps=100).of(steps) == {200, 300, 301, 302}
    assert Retention(newest=2, anchor_steps=100, permanent_steps=7).of(steps) == {7, 14, 200, 210, 300, 301, 302}


def test_the_anchor_is_the_newest_whole_one_not_after_the_step(tmp_path):
    model, optimizer = setup(0, 1)
    checkpoints = folder(tmp_path, keep=9)
    for step in (100, 150, 200, 300):
        checkpoints.save(training_tensors(model, optimizer), Position(step, step))

    def anchor(step: int) -> str | None:
        found = checkpoints.anchor(step, said.append)
        return found.name if found is not None else None

    said: list[str] = []
    assert [anchor(step) for step in (99, 199, 200, 299)] == [
        None,
        "step-00000100",
        "step-00000200",
        "step-00000200",
    ]
    os.truncate(tmp_path / "step-00000200" / "manifest.json", 20)
    assert anchor(299) == "step-00000100"
    assert "step-00000200 is damaged" in said[0]


def test_what_else_is_json_comes_back(tmp_path):
    position = Position(1, 10, {"losses": [0.1, 1 / 3], "lowest": None})
    folder(tmp_path).save(training_tensors(*setup(0, 1)), position)
    assert load(tmp_path)[0] == position


def test_a_full_disk_raises_oserror_and_leaves_the_earlier_checkpoints(tmp_path, saved):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200, hard))
    try:
        with pytest.raises(OSError, match="File too large"):
            folder(tmp_path).save(saved, Position(3, 30))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert names(tmp_path) == ["step-00000001", "step-00000002"]
    assert load(tmp_path)[0] == Position(2, 20)


def test_nothing_in_a_checkpoint_needs_unpickling(tmp_path, saved):
    assert {path.suffix for path in (tmp_path / "step-00000002").iterdir()} == {".safetensors", ".json"}

"""A small preset, and artifacts that stand for built ones, so that plans can be looked at without building."""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from types import MappingProxyType, SimpleNamespace
from typing import Any

import pytest

from athanor.core.disk import write_json
from athanor.core.store import Store
from athanor.data.data_recipe import TokenizerRecipe
from athanor.data.tokenizer import build_tokenizer
from athanor.flows.cli.main import main
from athanor.flows.plan.survey import StageSurvey
from athanor.flows.presets.preset import load_preset
from athanor.tasks.preset_recipe import Preset
from athanor.tasks.stage import parent_keys

SMALL = (
    "model.d_model=32", "model.n_layers=2", "model.n_heads=2", "model.n_kv_heads=1", "model.head_dim=16",
    "model.d_ff=64", "pretrain.steps=40", "pretrain.batch_tokens=512", "pretrain.warmup_steps=10",
    "runtime.device=cpu", 'runtime.wandb="off"',
)  # fmt: skip
ONE_FILE = MappingProxyType({"file": "content"})
FACTS = {  # those that plans read
    "acquire": {"text_bytes": 1_000_000},
    "tokenizer": {"vocab_size": 700},
    "tokenize": {"train_tokens": 300_000},
}


@pytest.fixture
def athanor(monkeypatch, capsys):
    """Runs `athanor` with the given arguments, in this process."""
    monkeypatch.setattr(warnings, "formatwarning", warnings.formatwarning)

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["athanor", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        found = capsys.readouterr()
        return SimpleNamespace(returncode=ended.value.code, stdout=found.out, stderr=found.err)

    return run


@cache
def tokenizer_json() -> str:
    """A small tokenizer that holds the chat template."""
    with TemporaryDirectory() as folder:
        build_tokenizer(TokenizerRecipe(vocab_size=300), iter(["a text to train on"]), Path(folder))
        return Path(folder, "tokenizer.json").read_text(encoding="utf-8")


@pytest.fixture
def small_preset() -> Callable[..., Preset]:
    """The quickstart with a tiny model, and further overrides."""
    return lambda *overrides: load_preset("quickstart", [*SMALL, *overrides])


@pytest.fixture
def publish() -> Callable[..., None]:
    """Put an artifact into the store as its stage would, but for its files, name -> text."""

    def put(found: StageSurvey, wall_s: float = 50.0, files: Mapping[str, str] | None = None, **manifest: Any):
        store = Store()
        partial = store.partial(found.artifact, resume=False)
        if files is None:
            files = {"tokenizer.json": tokenizer_json()} if found.stage == "tokenizer" else ONE_FILE
        for name, text in files.items():
            (partial / name).write_text(text, encoding="utf-8")
        fields = {
            "code_version": found.record.code_version,
            "recipe": found.wanted.recipe.model_dump(mode="json", exclude_none=True),
            "parents": parent_keys(found.wanted.inputs),
            "code": found.record.fingerprint(),
            "versions": {},
            "wall_s": wall_s,
            "cost_usd": 0.0,
            "facts": FACTS.get(found.stage, {}),
            "created": "2026-01-01T00:00:00+00:00",
        }
        store.publish(found.artifact, partial, {**fields, **manifest})

    return put


@pytest.fixture
def leave_checkpoint() -> Callable[..., None]:
    """Leave an interrupted training with one checkpoint and some seconds on its ledger."""

    def leave(found: StageSurvey, step: int, device_s: float = 0.0) -> None:
        partial = Store().partial(found.artifact, resume=True)
        folder = partial / "checkpoints" / f"step-{step:08d}"
        folder.mkdir(parents=True)
        (folder / "model.safetensors").write_bytes(b"12345678")
        write_json(folder / "manifest.json", {"step": step, "files": {"model.safetensors": {"size": 8, "sha256": ""}}})
        row = {"attempt": "a", "time": 0.0, "device_s": device_s, "usd": 0.0}
        (partial / "ledger.jsonl").write_text(json.dumps(row) + "\n")

    return leave

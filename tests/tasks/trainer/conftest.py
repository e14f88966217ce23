"""A tiny corpus and the description of a tiny run on it, shared by the trainer's tests."""

from __future__ import annotations

import importlib
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from athanor.core.disk import write_json
from athanor.core.kinds import Kinds
from athanor.data.chatml import write_chat_shards
from athanor.data.data_recipe import ChatSourceRecipe, SourceRecipe, TokenizerRecipe
from athanor.data.documents import read_documents, write_documents
from athanor.data.shards import write_shards
from athanor.data.tokenizer import build_tokenizer
from athanor.tasks.trainer.train_recipe import RunSpec

SEQ_LEN_TOKENS = 32
RECURRENT = {
    "n_layers": 3,
    "n_kv_heads": 2,
    "huginn": {"prelude_layers": 1, "coda_layers": 1, "mean_recurrence": 3, "backprop_depth": 2},
}


@pytest.fixture(scope="session")
def corpus(tmp_path_factory) -> SimpleNamespace:
    """Tokenizer, two sources of token shards and one of chat shards."""
    root: Path = tmp_path_factory.mktemp("corpus")
    for seed, source in enumerate(("one", "two")):
        recipe = SourceRecipe(builtin="word-problems", max_documents=200, seed=seed)
        write_documents(recipe, root / "documents" / source)
    texts = (d.text for d in read_documents(root / "documents" / "one", "train"))
    facts = build_tokenizer(TokenizerRecipe(vocab_size=320), texts, root / "tokenizer")
    for source in ("one", "two"):
        write_shards(root / "documents" / source, root / "tokenizer", source, root / source)
    write_documents(ChatSourceRecipe(builtin="word-problems", max_documents=100, seed=2), root / "documents" / "chat")
    write_chat_shards(root / "documents" / "chat", root / "tokenizer", root / "chat")
    return SimpleNamespace(root=root, tokenizer=root / "tokenizer", vocab_size=facts["vocab_size"])


@pytest.fixture(scope="session")
def write_run(corpus) -> Callable[..., Path]:
    """Write `run.json` of a tiny run into `root/name` and return that folder.

    Keyword arguments replace fields of the run; `train` and `runtime` only the fields they name.
    """

    def write(
        root: Path,
        name: str,
        family: str = "vanilla",
        train: dict | None = None,
        runtime: dict | None = None,
        **fields: Any,
    ) -> Path:
        model = {
            "family": family,
            "vocab_size": corpus.vocab_size,
            "d_model": 32,
            "n_layers": 2,
            "n_heads": 2,
            "n_kv_heads": 1,
            "head_dim": 16,
            "d_ff": 48,
            "max_seq_len": 3 * SEQ_LEN_TOKENS,
        } | (RECURRENT if family == "huginn" else {})
        spec = {
            "objective": "pretrain",
            "key": "k" * 64,
            "train": {
                "steps": 12,
                "seq_len_tokens": SEQ_LEN_TOKENS,
                "batch_tokens": 8 * SEQ_LEN_TOKENS,
                "peak_lr": 3e-3,
                "warmup_steps": 2,
                "eval_every_steps": 4,
                "eval_tokens": 256,
            }
            | (train or {}),
            "model": model,
            "runtime": {"device": "cpu", "threads": 1, "micro_batch_rows": 4, "wandb": "off", "price_usd_per_hour": 3.6}
            | (runtime or {}),
            "tokenizer_dir": str(corpus.tokenizer),
            "shard_dirs": {source: str(corpus.root / source) for source in ("one", "two")},
            "mixture": {"start": {"one": 0.7, "two": 0.3}},
            "run_name": name,
        }
        folder = root / name
        folder.mkdir()
        write_json(folder / "run.json", RunSpec.model_validate(spec | fields).model_dump(mode="json"))
        return folder

    return write


@pytest.fixture
def make_run(write_run, tmp_path) -> Callable[..., Path]:
    """`write_run` into the test's own folder."""
    return partial(write_run, tmp_path)


@pytest.fixture
def plant_module(tmp_path, monkeypatch) -> Iterator[Callable[[Kinds, str, str], None]]:
    """`plant_module(kinds, name, code)`: for the length of a test the package of the kinds has one more module."""
    planted: list[tuple[Kinds, str]] = []

    def add(kinds: Kinds, name: str, code: str) -> None:
        room = tmp_path / "planted" / kinds.package
        room.mkdir(parents=True, exist_ok=True)
        (room / f"{name}.py").write_text(code)
        package = importlib.import_module(kinds.package)
        monkeypatch.setattr(package, "__path__", [*package.__path__, str(room)])
        vars(kinds).pop("table", None)
        planted.append((kinds, f"{kinds.package}.{name}"))

    yield add
    for kinds, module in planted:
        vars(kinds).pop("table", None)
        sys.modules.pop(module, None)


@pytest.fixture
def free_port() -> int:
    """A port that nothing listens on."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


@pytest.fixture
def start_trainer() -> Callable[..., subprocess.Popen]:
    """Start `python -m athanor.tasks.trainer` on a folder."""

    def start(folder: Path, **options: Any) -> subprocess.Popen:
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True} | options
        return subprocess.Popen([sys.executable, "-m", "athanor.tasks.trainer", str(folder)], **pipes)

    return start

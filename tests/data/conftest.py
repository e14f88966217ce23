"""Small documents, tokenizer and shard artifacts for the tests of the data layer."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import parquet

from athanor.data.data_recipe import TokenizerRecipe
from athanor.data.tokenizer import build_tokenizer

TEXT = "the sum of 12 and 345 is 357, so a furnace burns\n\tslowly; naïve café — π≈3.14159 def f(x): return x"


def words(seed: int, count: int) -> str:
    """A text of `count` words that differs by seed."""
    parts = TEXT.split(" ")
    return " ".join(parts[(seed * 7 + i * i + i * seed) % len(parts)] for i in range(count))


@pytest.fixture(scope="session")
def make_text():
    """`words(seed, count)`."""
    return words


@pytest.fixture
def write_documents_dir(tmp_path):
    """Function (name, train texts, held-out texts) -> folder of a documents artifact."""

    def write(name: str, train: Sequence[str], held_out: Sequence[str] = ()) -> Path:
        folder = tmp_path / name
        folder.mkdir()
        for split, texts in (("train", train), ("held_out", held_out)):
            refs = [f"{name}.jsonl:{i + 1}" for i in range(len(texts))]
            table = pa.table({"text": pa.array(texts, pa.string()), "ref": pa.array(refs, pa.string())})
            parquet.write_table(table, folder / f"{split}-00000.parquet")
        return folder

    return write


@pytest.fixture(scope="session")
def tokenizer_dir(tmp_path_factory) -> Path:
    """A trained tokenizer artifact of 300 ids, with chat tags."""
    out = tmp_path_factory.mktemp("trained") / "tokenizer"
    texts = (words(seed, 60) for seed in range(200))
    build_tokenizer(TokenizerRecipe(vocab_size=300), texts, out)
    return out


@pytest.fixture(scope="session")
def plain_tokenizer_dir(tokenizer_dir, tmp_path_factory) -> Path:
    """The same vocabulary without chat tags, as GPT-2's lacks them."""
    spec = json.loads((tokenizer_dir / "tokenizer.json").read_text())
    spec["added_tokens"] = [t for t in spec["added_tokens"] if t["content"] == "<|endoftext|>"]
    for tag in ("<|im_start|>", "<|im_end|>"):
        del spec["model"]["vocab"][tag]
    file = tmp_path_factory.mktemp("plain") / "tokenizer.json"
    file.write_text(json.dumps(spec))
    out = file.parent / "artifact"
    build_tokenizer(TokenizerRecipe(path=str(file)), iter(()), out)
    return out

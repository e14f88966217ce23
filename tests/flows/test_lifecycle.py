"""The whole lifecycle over real text, small. From built-in text, and on a server: tests/test_front_page.py."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tokenizers
import yaml

from athanor.core.store import Store

ATHANOR = str(Path(sys.executable).with_name("athanor"))
TRAIN = {
    "steps": 4, "warmup_steps": 2, "seq_len_tokens": 128, "batch_tokens": 128, "eval_every_steps": 2, "eval_tokens": 256
}  # fmt: skip
SMALL = {
    "extends": "quickstart",
    "model": {"d_model": 32, "n_layers": 2, "n_heads": 2, "n_kv_heads": 1, "head_dim": 16, "d_ff": 64},
    "pretrain": TRAIN,  # few tokens: each costs a row of 151,669 logits
    "interpret": {"tokens": 512},
    "report": {"samples": 2},
    "runtime": {"wandb": "off"},
}


def run(preset: Path) -> None:
    done = subprocess.run([ATHANOR, "run", str(preset)], capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]


def write_preset(folder: Path, **fields) -> Path:
    file = folder / "small.yaml"
    file.write_text(yaml.safe_dump({**SMALL, **fields}))
    return file


def only(stage: str, label: str = "") -> Path:
    (found,) = [a for a in Store().artifacts() if a.stage == stage and a.label.startswith(label)]
    assert Store().problem(found, verify=True) is None
    return found.path


@pytest.mark.slow
def test_real_text_keeps_every_token_its_eos_and_its_document(tmp_path, test_data_path):
    gsm8k, test = test_data_path("gsm8k/train.jsonl"), test_data_path("gsm8k/test.jsonl")
    sources = {
        "math": {"path": str(gsm8k), "text": "{question}\n{answer}", "max_documents": 500},
        "stem": {"path": str(test_data_path("math_text/d2l.md")), "max_bytes": None},
        "prose": {"path": str(test_data_path("wikitext2/wiki.valid.txt"))},
        "code": None,
    }
    mixture = {"code": None, "math": 0.5, "stem": 0.3, "prose": 0.2}
    tokenizer_path = test_data_path("qwen3_tokenizer/tokenizer.json")
    chat = {"path": str(gsm8k), "user": "{question}", "assistant": "{answer}", "max_documents": 100}
    gsm8k_task = {"name": "gsm8k", "path": str(test), "limit": 2, "num_fewshot": 0, "max_new_tokens": 8}
    preset = write_preset(
        tmp_path,
        data={"sources": sources, "mixture": {"start": mixture, "end": mixture}},
        tokenizer={"path": str(tokenizer_path)},
        sft={"source": chat, "train": TRAIN, "max_lost_fraction": 1},  # rows of 128 tokens cut most
        evaluate={"tasks": {"gsm8k": gsm8k_task} | {name: None for name in QUICKSTART_TASKS}},
    )
    run(preset)

    reference = tokenizers.Tokenizer.from_file(str(tokenizer_path))
    eos_id = reference.token_to_id("<|endoftext|>")
    shards = next(a.path for a in Store().artifacts() if is_shards_of_gsm8k(a))
    texts = [f"{r['question']}\n{r['answer']}" for r in map(json.loads, gsm8k.read_text().splitlines()[:500])]
    lengths = {len(e.ids) + 1 for e in reference.encode_batch(texts)}
    counted = sum(len(e.ids) + 1 for e in reference.encode_batch(texts))
    stored = 0
    for split in ("train", "held_out"):
        manifest = json.loads((shards / split / "shards.json").read_text())
        tokens = np.fromfile(shards / split / "shard-00000.bin", dtype="<u4")
        offsets = np.fromfile(shards / split / "shard-00000.idx", dtype="<u8")
        assert manifest["total_tokens"] == len(tokens) == offsets[-1]
        assert manifest["total_documents"] == len(offsets) - 1
        ends = offsets[1:].astype(int) - 1
        assert (tokens[ends] == eos_id).all() and (tokens == eos_id).sum() == len(ends)
        assert set(np.diff(offsets.astype(int))) <= lengths
        stored += len(tokens)
    assert stored == counted
    result = json.loads((only("evaluate", "gsm8k-base") / "result.json").read_text())
    assert {score["n"] for score in result["metrics"].values()} == {2}


QUICKSTART_TASKS = ("sums-and-differences-to-20", "word-problems", "word-problems-choice", "bits-per-byte")


def is_shards_of_gsm8k(artifact) -> bool:
    manifest = artifact.path / "train" / "shards.json"
    return artifact.stage == "tokenize" and json.loads(manifest.read_text())["total_documents"] > 400

"""From a published folder through every stage to the report, and from there on again."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from athanor.core.store import Artifact, Store
from athanor.data.data_recipe import TokenizerRecipe
from athanor.data.tokenizer import build_tokenizer

ATHANOR = str(Path(sys.executable).with_name("athanor"))
WIDTH, FEED_FORWARD, HEAD, LAYERS = 32, 48, 16, 2
TRAIN = {"steps": 3, "seq_len_tokens": 64, "batch_tokens": 128, "peak_lr": 1e-3, "eval_tokens": 256}
PROBLEMS = {"builtin": "word-problems", "max_documents": 80, "held_out_fraction": 0.2}
JUDGED = {
    "evaluate": {"tasks": {"sums": {"name": "word_problems", "limit": 2, "max_new_tokens": 4}}},
    "runtime": {"device": "cpu", "threads": 1, "wandb": "off"},
}
WHOLE = {
    **JUDGED,
    "data": {"sources": {"math": PROBLEMS}},
    "sft": {"source": PROBLEMS, "train": TRAIN, "max_lost_fraction": 1},
    "interpret": {"tokens": 256, "seq_len_tokens": 64},
}


@pytest.fixture
def published(tmp_path) -> Path:
    """A folder as the transformers library writes one of Qwen3, its tokenizer in it."""
    folder = tmp_path / "published"
    facts = build_tokenizer(TokenizerRecipe(vocab_size=300), iter(["two hens sat on two eggs. "] * 9), folder)
    for name in ("meta.json", "token_bytes.npy"):  # which are ours
        (folder / name).unlink()
    generator = torch.Generator().manual_seed(0)
    shapes = {"model.embed_tokens": (facts["vocab_size"], WIDTH), "model.norm": (WIDTH,)}
    for layer in range(LAYERS):
        at = f"model.layers.{layer}"
        for norm in ("input_layernorm", "post_attention_layernorm"):
            shapes[f"{at}.{norm}"] = (WIDTH,)
        for part, heads in (("q", 2), ("k", 1), ("v", 1)):
            shapes[f"{at}.self_attn.{part}_proj"] = (heads * HEAD, WIDTH)
        shapes |= {f"{at}.self_attn.o_proj": (WIDTH, 2 * HEAD)}
        shapes |= {f"{at}.self_attn.{part}_norm": (HEAD,) for part in ("q", "k")}
        shapes |= {f"{at}.mlp.{part}_proj": (FEED_FORWARD, WIDTH) for part in ("gate", "up")}
        shapes |= {f"{at}.mlp.down_proj": (WIDTH, FEED_FORWARD)}
    tensors = {f"{name}.weight": 0.1 * torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    save_file({name: tensor.bfloat16() for name, tensor in tensors.items()}, folder / "model.safetensors")
    config = {"model_type": "qwen3", "max_position_embeddings": 128}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def run(folder: Path, name: str, **fields) -> dict[str, Artifact]:
    """Run a preset; what its report is made of, `stage label` -> artifact."""
    file = folder / f"{name}.yaml"
    file.write_text(yaml.safe_dump(fields))
    done = subprocess.run([ATHANOR, "run", str(file)], capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    (report,) = [a for a in Store().artifacts() if (a.stage, a.label) == ("report", name)]
    parents = set(report.manifest["parents"].values())
    made = [a for a in Store().artifacts() if a is not report and any(key.startswith(a.key) for key in parents)]
    return {f"{a.stage} {a.label}": a for a in [*made, report]}


@pytest.mark.slow
def test_everything_goes_on_from_a_checkpoint(published, tmp_path):
    first = run(tmp_path, "first", model={"checkpoint": str(published)}, pretrain=TRAIN, **WHOLE)
    assert {"checkpoint vanilla", "pretrain vanilla", "sft vanilla", "evaluate sums-base", "evaluate sums-sft"} <= set(
        first
    )
    assert {"interpret vanilla-base", "interpret vanilla-sft"} <= set(first)
    theirs = load_file(published / "model.safetensors")["model.embed_tokens.weight"]
    started, trained = (load_file(first[f"{s} vanilla"].path / "model.safetensors") for s in ("checkpoint", "pretrain"))
    assert torch.equal(started["embedding.weight"], theirs)
    moved = (trained["embedding.weight"] - theirs.float()).abs().max()
    assert 0 < moved < 5 * TRAIN["steps"] * TRAIN["peak_lr"]
    assert f"Started from{published}" in re.sub(
        "<[^>]*>|\n *", "", (first["report first"].path / "report.html").read_text()
    )

    base = first["pretrain vanilla"].name
    tuned = run(tmp_path, "tuned", model={"checkpoint": base}, **WHOLE)
    assert "pretrain vanilla" not in tuned
    again = load_file(tuned["sft vanilla"].path / "model.safetensors")
    before = load_file(first["sft vanilla"].path / "model.safetensors")
    assert all(torch.equal(again[name], before[name]) for name in before)  # fine-tuning is the same from either

    judged = run(tmp_path, "judged", model={"checkpoint": "first"}, **JUDGED)
    assert set(judged) == {"tokenizer file", "checkpoint vanilla", "evaluate sums-base", "report judged"}
    scores = [a.facts["metrics"] for a in (judged["evaluate sums-base"], first["evaluate sums-sft"])]
    assert scores[0] == scores[1]

"""A training step of a preset's model on this GPU, with and without our kernels, in one run.

    python -m athanor.tasks.trainer.step.measured PRESET.yaml ... [--rows 4] [--device cuda] [--out FILE.md]

The file needs a `model` with its vocabulary, `pretrain.seq_len_tokens` and perhaps `runtime.recompute_blocks`. One
micro-batch of random tokens in documents of a quarter of a row, forward and backward under bf16 autocast, without the
optimizer: tokens a second, the share of the bf16 peak by the model's own FLOPs (what is recomputed is not counted), the
most memory, and the loss, which the kernels may move by rounding alone.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import torch
import yaml

from athanor.core.runtime import Runtime
from athanor.kernels.kind import switch
from athanor.models.build import build_model
from athanor.models.counts import flops_per_token
from athanor.models.device import peak_flops
from athanor.models.model_recipe import ModelRecipe
from athanor.models.skeleton import LanguageModel
from athanor.tasks.trainer.step.block_transforms import prepare_blocks

TIMES = 5
COLUMNS = "preset | rows | kernels | step, ms | tokens/s | of the peak | most memory, GiB | loss"


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, and print or write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("presets", nargs="+", type=Path)
    parser.add_argument("--rows", type=int, default=4)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--out", type=Path, help="a Markdown file instead of the terminal")
    asked = parser.parse_args(arguments)
    device = torch.device(asked.device)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    lines = [f"# Training steps measured: {name}\n", f"torch {torch.__version__}; {__name__}.\n", f"| {COLUMNS} |"]
    lines.append("|---" * (COLUMNS.count("|") + 1) + "|")
    for path in asked.presets:
        preset = yaml.safe_load(path.read_text(encoding="utf-8"))
        for kernels in ("none", "all"):
            row = _row(path.stem, preset, asked.rows, kernels, device)
            print(row, flush=True)
            lines.append(row)
    if asked.out is not None:
        asked.out.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _row(name: str, preset: dict[str, Any], rows: int, kernels: str, device: torch.device) -> str:
    switch(kernels)
    recipe = ModelRecipe.model_validate(preset["model"])
    length = preset["pretrain"]["seq_len_tokens"]
    model = build_model(recipe).to(device)
    model.init_weights(0)
    model.train()
    model.begin_step(0)
    prepare_blocks(model, Runtime(recompute_blocks=preset.get("runtime", {}).get("recompute_blocks")))
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    step_s, loss = _step(model, rows, length, device)
    flops = flops_per_token(recipe, length)
    tokens_per_s = rows * length / step_s
    share = tokens_per_s * (flops.forward + flops.backward) / peak_flops(device)
    most = torch.cuda.max_memory_allocated() / 2**30 if device.type == "cuda" else 0.0
    cells = (name, rows, kernels, f"{1000 * step_s:.1f}", f"{tokens_per_s:,.0f}", f"{share:.1%}")
    return f"| {' | '.join(map(str, cells))} | {most:.1f} | {loss:.4f} |"


def _step(model: LanguageModel, rows: int, length: int, device: torch.device) -> tuple[float, float]:
    """Median seconds, and the loss a token of the first."""
    generator = torch.Generator().manual_seed(0)
    ids_BT = torch.randint(0, model.recipe.vocab_size or 1, (rows, length), generator=generator).to(device)
    quarter = max(1, length // 4)
    doc_start_BT = (torch.arange(length, device=device) // quarter * quarter).expand(rows, -1)
    row_key_B = torch.arange(rows, device=device)
    took_s, losses = [], []
    for _ in range(TIMES + 2):
        started = time.perf_counter()
        with torch.autocast(device.type, torch.bfloat16):
            loss = model.loss(ids_BT, ids_BT.roll(-1, 1), doc_start_BT, row_key_B)
        torch.stack([loss.total / loss.tokens, *loss.aux.values()]).sum().backward()
        losses.append(float(loss.total.detach() / loss.tokens))
        took_s.append(time.perf_counter() - started)
        model.zero_grad(set_to_none=True)
    return median(took_s[2:]), losses[0]


if __name__ == "__main__":
    main()

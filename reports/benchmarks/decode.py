"""Cached decoding against recomputing the prefix for every token, for one model of each family, in one run.

    python -m athanor.reports.benchmarks.decode [--context 1000] [--new-tokens 64] [--rows 1] [--device cpu]
        [--out FILE.md]

Cached: tokens per second that `models.decoding.generate.TokenStream` yields once the prompt is read, EOS being off.
Recomputed: what remains without a cache, one forward pass over the prefix for each token; timed at the prompt's length,
so in its favour. Both on the same random weights and prompt, fp32, greedy, best of `REPEATS`. The prompt's own pass
counts for neither.
"""

from __future__ import annotations

import argparse
import platform
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from athanor.models.build import build_model
from athanor.models.counts import parameter_counts
from athanor.models.decoding.generate import TokenStream
from athanor.models.decoding.sampling import GREEDY
from athanor.models.family import FAMILIES
from athanor.models.model_recipe import ModelRecipe
from athanor.models.skeleton import LanguageModel

REPEATS = 3
SHAPE = dict(
    vocab_size=4096, d_model=384, n_layers=6, n_heads=6, n_kv_heads=2, head_dim=64, d_ff=1024, max_seq_len=4096
)


@dataclass(frozen=True)
class Row:
    """Tokens per second of one family."""

    family: str
    parameters: int
    cached: float
    recomputed: float

    @property
    def ratio(self) -> float:
        """How many times faster the cache is."""
        return self.cached / self.recomputed


def recipe_of(family: str) -> ModelRecipe:
    """The small model of a family that is timed."""
    return ModelRecipe.model_validate({"family": family, **SHAPE, family: dict(FAMILIES[family].laptop)})


def cached_tokens_per_s(model: LanguageModel, prompts: list[list[int]], new_tokens: int) -> float:
    """Tokens of all rows per second, from the first of them on."""
    stream = iter(TokenStream(model, prompts, max_new_tokens=new_tokens + 1, stop_ids=(), sampling=GREEDY, seed=0))
    for _ in prompts:
        next(stream)
    started = time.perf_counter()
    made = sum(1 for _ in stream)
    return made / (time.perf_counter() - started)


@torch.no_grad()
def recomputed_tokens_per_s(model: LanguageModel, prompts: list[list[int]]) -> float:
    """Tokens of all rows per second when each costs a pass over its prefix."""
    ids_BT = torch.tensor(prompts, device=model.embedding.weight.device)
    started = time.perf_counter()
    model.logits(model.hidden(ids_BT)[:, -1]).argmax(-1).tolist()
    return len(prompts) / (time.perf_counter() - started)


def measure(family: str, context: int, new_tokens: int, rows: int, device: str) -> Row:
    """Both speeds of one family, in turns."""
    recipe = recipe_of(family)
    model = build_model(recipe)
    model.init_weights(0)
    model = model.to(device).eval()
    generator = torch.Generator().manual_seed(0)
    prompts = torch.randint(0, SHAPE["vocab_size"], (rows, context), generator=generator).tolist()
    recomputed_tokens_per_s(model, prompts)
    cached, recomputed = zip(
        *(
            (cached_tokens_per_s(model, prompts, new_tokens), recomputed_tokens_per_s(model, prompts))
            for _ in range(REPEATS)
        ),
        strict=True,
    )
    return Row(family, parameter_counts(recipe)["total"], max(cached), max(recomputed))


def report(rows: Iterable[Row], command: str, machine: str) -> str:
    """The figures as Markdown."""
    lines = [
        "# Cached decoding against recomputing the prefix",
        "",
        f"`{command}`",
        "",
        machine,
        "",
        "| family | parameters | cached, tokens/s | recomputed, tokens/s | ratio |",
        "|---|---:|---:|---:|---:|",
        *(f"| {r.family} | {r.parameters:,} | {r.cached:.1f} | {r.recomputed:.2f} | {r.ratio:.1f} × |" for r in rows),
    ]
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print, and write the report if asked to."""
    described = (__doc__ or "").split("\n")[0]
    parser = argparse.ArgumentParser(prog="python -m athanor.reports.benchmarks.decode", description=described)
    parser.add_argument("--families", nargs="+", choices=list(FAMILIES), default=list(FAMILIES))
    parser.add_argument("--context", type=int, default=1000, help="tokens of the prompt")
    parser.add_argument("--new-tokens", type=int, default=64, help="tokens decoded after it")
    parser.add_argument("--rows", type=int, default=1, help="prompts decoded together")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--note", default="", help="what else to say about the machine")
    parser.add_argument("--out", type=Path, help="Markdown file to write")
    asked = parser.parse_args(arguments)
    rows = []
    for family in asked.families:
        rows.append(measure(family, asked.context, asked.new_tokens, asked.rows, asked.device))
        print(f"{family}: {rows[-1].ratio:.1f} x", flush=True)
    command = (
        f"python -m athanor.reports.benchmarks.decode --context {asked.context} --new-tokens {asked.new_tokens} "
        f"--rows {asked.rows} --device {asked.device}"
    )
    name = torch.cuda.get_device_name() if asked.device == "cuda" else f"{platform.machine()} CPU"
    versions = f"Python {platform.python_version()}, torch {torch.__version__}"
    machine = f"{name}, threads: {torch.get_num_threads()}, {versions}. {asked.note}"
    text = report(rows, command, machine.rstrip(". ") + ".")
    print(text, end="")
    if asked.out is not None:
        asked.out.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()

"""The first hour on a GPU, the quickest answers first: do the tests pass, how fast are training and decoding.

    python -m athanor.reports.benchmarks.gpu_day [--steps 50] [--batch-tokens 65536] [--presets NAME ...]
        [--device cuda] [--folder build/gpu-day] [--out reports/benchmarks]

Every preset is trained by the command that users type, in a process and an Athanor home of its own, on text and a
tokenizer that need no network. What fails is said at the end and hinders nothing else. Writes `training-<device>.md`
and `decode-<device>.md`.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
import yaml

PRESETS = (
    *("vanilla-600m", "polychromatic-600m"),
    *("quickstart", "quickstart-vanilla", "quickstart-hydra", "quickstart-swa-mla", "quickstart-huginn"),
)
TEXT = {"problems": {"builtin": "word-problems", "max_documents": 40000}}
ATHANOR = (sys.executable, "-m", "athanor.flows.cli.main")
SPEEDS = """SELECT runs.name, parameters, avg(tokens_per_s) AS tokens_per_s, avg(utilisation) AS utilisation,
    avg(step_s) AS step_s, max(step) AS step FROM runs JOIN steps USING (run)
    WHERE published AND step > steps_planned / 2 GROUP BY run ORDER BY parameters DESC, runs.name"""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run everything; exits with a line that names what failed."""
    asked = _arguments(arguments)
    if asked.device == "cuda" and not torch.cuda.is_available():
        sys.exit("torch sees no GPU: install a CUDA build of torch, or look at nvidia-smi")
    folder = asked.folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    environment = os.environ | {"ATHANOR_HOME": str(folder / "home"), "WANDB_MODE": "offline"}
    failed = []

    def run(what: str, *command: str) -> None:
        print(f"\n=== {what}", flush=True)
        if subprocess.run(command, env=environment).returncode:
            failed.append(what)

    if asked.device == "cuda":
        run("tests", sys.executable, "-m", "pytest", "-m", "gpu")
    for preset in asked.presets:
        path = folder / f"{preset}-short.yaml"
        path.write_text(yaml.safe_dump(_short(preset, asked)), encoding="utf-8")
        run(preset, *ATHANOR, "run", str(path), "--only", "pretrain")
    name = _device_name(asked.device).lower().replace(" ", "-")
    if asked.device == "cuda":
        decode = asked.out / f"decode-{name}.md"
        run("decoding", sys.executable, "-m", f"{__package__}.decode", "--device", "cuda", "--out", str(decode))
    query = subprocess.run([*ATHANOR, "runs", "query", SPEEDS, "--json"], env=environment, capture_output=True)
    rows = [json.loads(line) for line in query.stdout.decode().splitlines()]
    (asked.out / f"training-{name}.md").write_text("\n".join(_page(rows, asked)) + "\n", encoding="utf-8")
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


def _arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=50, help="of each preset")
    parser.add_argument("--batch-tokens", type=int, default=65536, help="of each step")
    parser.add_argument("--presets", nargs="+", default=PRESETS)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="cpu trains alone, to try this out")
    parser.add_argument("--folder", type=Path, default=Path("build/gpu-day"), help="the presets, and an Athanor home")
    parser.add_argument("--out", type=Path, default=Path("reports/benchmarks"))
    return parser.parse_args(arguments)


def _short(preset: str, asked: argparse.Namespace) -> dict:
    """A few steps of a preset, at its full size."""
    lengths = {"steps": asked.steps, "batch_tokens": asked.batch_tokens, "eval_every_steps": asked.steps}
    return {
        "extends": preset,
        "data": {"sources": TEXT},
        "tokenizer": {"hub": None, "vocab_size": 4096},
        "pretrain": {**lengths, "warmup_steps": asked.steps // 5, "eval_tokens": asked.batch_tokens},
        "runtime": {"device": asked.device},
    }


def _device_name(device: str) -> str:
    return torch.cuda.get_device_name() if device == "cuda" else "CPU"


def _page(rows: Iterable[dict], asked: argparse.Namespace) -> list[str]:
    return [
        f"# Training on one {_device_name(asked.device)}",
        "",
        f"`python -m {__spec__.name} --steps {asked.steps} --batch-tokens {asked.batch_tokens}` with Python "
        f"{platform.python_version()}, torch {torch.__version__}. Means over the second half of the steps; utilisation "
        "is of the device's dense bf16 peak, 0 where that is unknown.",
        "",
        "| run | parameters | tokens/s | utilisation | step, s |",
        "|---|---:|---:|---:|---:|",
        *(
            f"| {r['name']} | {r['parameters']:,} | {r['tokens_per_s']:,.0f} | {r['utilisation']:.1%} "
            f"| {r['step_s']:.3f} |"
            for r in rows
        ),
    ]


if __name__ == "__main__":
    main()

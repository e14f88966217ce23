"""The counted step of one model of each family on one GPU, on a page.

    python -m athanor.reports.benchmarks.roofline [--on H100] [--out reports/benchmarks/roofline-h100.md]

Every shape is counted by the command that users type, `athanor bench roofline`, for a step of STEP_TOKENS.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
import yaml

from athanor.models.sizes import SIZES

STEP_TOKENS = 524_288
BASE = "vanilla-600m"  # its text and tokenizer are never read
ATHANOR = (sys.executable, "-m", "athanor.flows.cli.main")


@dataclass(frozen=True)
class Case:
    """A named size, and how many of its rows go through at once."""

    size: str
    rows: int
    seq_len_tokens: int
    recompute_blocks: int | None = None

    def preset(self) -> dict[str, Any]:
        """A file that `athanor` reads."""
        model = SIZES[self.size].model_dump(mode="json", exclude_none=True, exclude_defaults=True)
        lengths = {"seq_len_tokens": self.seq_len_tokens, "batch_tokens": STEP_TOKENS}
        runtime = {"micro_batch_rows": self.rows, "recompute_blocks": self.recompute_blocks}
        return {"extends": BASE, "model": model, "pretrain": lengths, "sft": None, "runtime": runtime}


CASES = (
    Case("polychromatic-600m", 8, 4096),
    Case("polychromatic-600m", 16, 4096, recompute_blocks=1),
    Case("vanilla-600m", 4, 4096),
    Case("hydra-500m", 8, 2048),
    Case("swa-mla-small", 8, 2048),
    Case("nebel-raven-3.5b", 1, 4096),
)


def counted(case: Case, gpu: str, folder: Path) -> dict[str, Any]:
    """What the command writes of a case; raises CalledProcessError where it fails."""
    preset, out = folder / f"{case.size}.yaml", folder / f"{case.size}.json"
    preset.write_text(yaml.safe_dump(case.preset()), encoding="utf-8")
    command = [*ATHANOR, "bench", "roofline", str(preset), "--on", gpu, "--json", str(out)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return json.loads(out.read_text(encoding="utf-8"))


def page(found: Sequence[tuple[Case, dict[str, Any]]], gpu: str, command: str) -> str:
    """The figures as Markdown."""
    lines = [
        f"# A training step on {gpu}, counted",
        "",
        f"`{command}` with Python {platform.python_version()}, torch {torch.__version__}. Counted op by op from the "
        "models' own code as it runs eagerly, forward and backward, without the optimizer's update; not measured on a "
        "GPU. Utilisation is useful FLOPs over the dense bf16 peak; what is recomputed is not useful.",
        "",
        f"| model | rows at once | recomputed | step of {STEP_TOKENS:,} tokens, s | tokens/s | utilisation "
        "| launches a micro-batch | where the time goes |",
        "|---|---:|---|---:|---:|---:|---:|---|",
        *(_row(case, step) for case, step in found),
        "",
        "Assumed:",
        "",
        *_assumed(found[0][1]),
    ]
    return "\n".join(lines) + "\n"


def _row(case: Case, step: dict[str, Any]) -> str:
    one = step["micro_batch"]
    shares = {kind: spent["time_s"] / one["time_s"] for kind, spent in one["by_kind"].items()}
    where = ", ".join(f"{kind} {share:.0%}" for kind, share in shares.items() if share >= 0.01)
    recomputed = "no" if case.recompute_blocks is None else f"1 block of {case.recompute_blocks}"
    return (
        f"| {case.size} | {case.rows} x {case.seq_len_tokens:,} | {recomputed} | {step['step_s']:.1f} "
        f"| {step['tokens_per_s']:,.0f} | {one['utilisation']:.1%} | {one['launches']:,} | {where} |"
    )


def _assumed(step: dict[str, Any]) -> Iterable[str]:
    sheet, assumed = step["data_sheet"], step["assumed"]
    peak, bandwidth = sheet["peak_flops_per_s"] / 1e12, sheet["memory_bytes_per_s"] / 1e12
    yield f"- data sheet: {peak:,.0f} TFLOP/s dense bf16, {bandwidth:.2f} TB/s"
    yield f"- {assumed['bandwidth_share']:.0%} of the bandwidth"
    yield f"- a launch takes {assumed['launch_s'] * 1e6:.0f} µs at least"
    for rate, share in assumed["shares"].items():
        yield f"- {rate}: {share:.1%} of the peak"


def main(arguments: Sequence[str] | None = None) -> None:
    """Count, print, and write the page if asked to."""
    described = (__doc__ or "").split("\n")[0]
    parser = argparse.ArgumentParser(prog="python -m athanor.reports.benchmarks.roofline", description=described)
    parser.add_argument("--on", default="H100", help="the GPU")
    parser.add_argument("--sizes", nargs="+", choices=[case.size for case in CASES], default=None)
    parser.add_argument("--out", type=Path, help="Markdown file to write")
    asked = parser.parse_args(arguments)
    cases = [case for case in CASES if asked.sizes is None or case.size in asked.sizes]
    with TemporaryDirectory(prefix="athanor-roofline-") as folder:
        found = [(case, counted(case, asked.on, Path(folder))) for case in cases]
    text = page(found, asked.on, f"python -m athanor.reports.benchmarks.roofline --on {asked.on}")
    print(text, end="")
    if asked.out is not None:
        asked.out.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()

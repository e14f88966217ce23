"""What NVIDIA's assembler makes of every kernel, for GPUs that need not be here.

    python -m athanor.reports.benchmarks.kernels_ahead [--out FILE.md]

Each specialisation that a kernel declares is compiled for every capability of `CAPABILITIES`. Registers are those of a
thread; accesses are instructions that read or write global memory, and wide those of them that move 128 bits.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from athanor.kernels.ahead import Built, build
from athanor.kernels.kind import KERNELS, Kernel

CAPABILITIES = (80, 90)  # A100, H100


@dataclass(frozen=True)
class Row:
    """One specialisation for one capability."""

    kernel: str
    specialisation: str
    warps: int
    capability: int
    built: Built


def rows(kernels: Iterable[Kernel]) -> Iterator[Row]:
    """All specialisations, compiled. UserError under Triton's interpreter."""
    for kernel in kernels:
        for each in kernel.compiled:
            for capability in CAPABILITIES:
                yield Row(kernel.name, each.name, each.num_warps, capability, build(each, capability))


def table(found: Sequence[Row]) -> str:
    """Markdown: how it was made, and a line for each row."""
    lines = [
        "# Kernels, compiled ahead of time",
        "",
        "`python -m athanor.reports.benchmarks.kernels_ahead`",
        "",
        f"Triton {version('triton')}. Not run on a GPU: this is what the compiler says.",
        "",
        "| kernel | specialisation | warps | for | registers | spilled, bytes | shared, bytes | wide accesses |",
        "|---|---|---:|---|---:|---:|---:|---:|",
    ]
    for row in found:
        made = row.built
        lines.append(
            f"| {row.kernel} | {row.specialisation} | {row.warps} | sm_{row.capability} | {made.registers} "
            f"| {made.spilled_bytes} | {made.shared_bytes:,} | {made.wide_accesses} of {made.global_accesses} |"
        )
    return "\n".join([*lines, ""])


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m athanor.reports.benchmarks.kernels_ahead")
    parser.add_argument("--out", type=Path, help="Markdown file; none prints")
    asked = parser.parse_args(arguments)
    text = table(list(rows(KERNELS.records())))
    if asked.out is None:
        print(text, end="")
    else:
        asked.out.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()

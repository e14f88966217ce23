"""Every kernel on this GPU: whether it computes what its reference does, and how near it comes to the memory's speed.

    python -m athanor.reports.benchmarks.kernels_measured [--device cuda] [--out FILE.md]

Each example of every declared kernel, in bf16, with random arguments: forward alone, and forward and backward, of the
Triton form and of the reference, in one run. Times are medians of device events, the cache flushed before each. The
last column is the bytes of the kernel's record, forward and backward, over its time, as a share of what a plain copy
reaches here. Errors are relative norms against the reference in fp32; a bf16 number by itself is known to about 0.2 %.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from athanor.kernels.kind import KERNELS, Kernel, switch

TIMES = 10
FLUSHED_BYTES = 1 << 28  # more than the second-level cache of any GPU there is
COLUMNS = (
    "kernel | arguments of | largest error, % | forward, ms | torch | forward and backward, ms | torch | of a copy"
)
SEED = 0


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, and print or write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda", help="cpu computes the reference twice, to try this out")
    parser.add_argument("--out", type=Path, help="a Markdown file instead of the terminal")
    asked = parser.parse_args(arguments)
    device = torch.device(asked.device)
    lines = [*_header(device), f"| {COLUMNS} |", "|---" * (COLUMNS.count("|") + 1) + "|"]
    copy_bytes_per_s = _copy_bytes_per_s(device)
    lines.insert(2, f"A copy of {FLUSHED_BYTES >> 20} MiB: {copy_bytes_per_s / 1e12:.2f} TB/s read and written.\n")
    for kernel in KERNELS.records():
        for row in _rows(kernel, device, copy_bytes_per_s):
            print(row, flush=True)
            lines.append(row)
    if asked.out is not None:
        asked.out.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _header(device: torch.device) -> list[str]:
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    return [f"# Kernels measured: {name}\n", f"torch {torch.__version__}; {__name__}.\n"]


def _rows(kernel: Kernel, device: torch.device, copy_bytes_per_s: float) -> Iterator[str]:
    run = _public(kernel)
    for example in kernel.examples:
        arguments = _filled(example.make(device, torch.bfloat16))
        switch("none")
        theirs, torch_forward_s, torch_both_s = _measured(run, arguments, device)
        exact, _, _ = _measured(run, [_fp32(x) for x in arguments], device, times=1)
        switch("all")
        ours, forward_s, both_s = _measured(run, arguments, device)
        error, usual = (max(_far(found, true) for found, true in zip(x, exact, strict=True)) for x in (ours, theirs))
        moved = kernel.forward_cost(*arguments).bytes + kernel.backward_cost(*arguments).bytes
        cells = (
            kernel.name,
            example.name,
            f"{100 * error:.2f} (torch {100 * usual:.2f})",
            *(f"{1000 * value:.2f}" for value in (forward_s, torch_forward_s, both_s, torch_both_s)),
            f"{moved / both_s / copy_bytes_per_s:.0%}",
        )
        yield f"| {' | '.join(cells)} |"
        del arguments, ours, theirs, exact


def _public(kernel: Kernel) -> Callable[..., Any]:
    """The function that dispatches, found beside the reference."""
    import importlib

    return getattr(importlib.import_module(kernel.reference.__module__), kernel.name)


def _filled(arguments: Sequence[Any]) -> list[Any]:
    """Random numbers where there is room for some; small ones, as streams and logits are."""
    torch.manual_seed(SEED)
    for x in arguments:
        if isinstance(x, Tensor) and x.is_floating_point():
            x.normal_()
        elif isinstance(x, Tensor):
            x.random_(0, 1000)
    return list(arguments)


def _fp32(x: Any) -> Any:
    return x.float() if isinstance(x, Tensor) and x.is_floating_point() else x


def _measured(
    run: Callable[..., Any], arguments: Sequence[Any], device: torch.device, times: int = TIMES
) -> tuple[list[Tensor], float, float]:
    """Results and gradients; seconds forward, and forward and backward."""
    leaves = [x.detach().requires_grad_(x.ndim != 4 or x.shape[0] != 2) if _is_float(x) else x for x in arguments]
    inputs = [x for x in leaves if _is_float(x) and x.requires_grad]  # the tables of rotations learn nothing

    def forward() -> list[Tensor]:
        results = run(*leaves)
        return [results] if isinstance(results, Tensor) else list(results)

    def both() -> list[Tensor]:
        results = forward()
        cotangents = [torch.ones_like(x) for x in results]
        gradients = torch.autograd.grad(results, inputs, cotangents, allow_unused=True)
        return [*results, *(x for x in gradients if x is not None)]

    found = [x.detach() for x in both()]
    with torch.no_grad():
        forward_s = _seconds(forward, device, times)
    return found, forward_s, _seconds(both, device, times)


def _is_float(x: Any) -> bool:
    return isinstance(x, Tensor) and x.is_floating_point()


def _far(found: Tensor, true: Tensor) -> float:
    """Relative error of what was found; absolute where the truth is nothing."""
    true = true.float()
    size = true.norm()
    return float((found.float() - true).norm() / (size if size > 0 else 1.0))


def _seconds(run: Callable[[], Any], device: torch.device, times: int) -> float:
    """Median, after one call that warms up."""
    run()
    flushed = torch.empty(FLUSHED_BYTES if device.type == "cuda" else 1, dtype=torch.uint8, device=device)
    took_s = []
    for _ in range(times):
        flushed.zero_()
        if device.type == "cuda":
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            run()
            end.record()
            torch.cuda.synchronize()
            took_s.append(start.elapsed_time(end) / 1000)
        else:
            started = time.perf_counter()
            run()
            took_s.append(time.perf_counter() - started)
    return sorted(took_s)[len(took_s) // 2]


def _copy_bytes_per_s(device: torch.device) -> float:
    if device.type != "cuda":
        return math.inf
    source = torch.empty(FLUSHED_BYTES, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2 * FLUSHED_BYTES / _seconds(lambda: target.copy_(source), device, TIMES)


if __name__ == "__main__":
    main()

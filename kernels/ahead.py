"""Compilation of Triton forms ahead of time, for a GPU that need not be there, and what the compiler made of them.

A process with TRITON_INTERPRET in its environment has no functions to compile: UserError there.
"""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from athanor.core.errors import UserError
from athanor.kernels.kind import Compiled

_ALIGNED = [["tt.divisibility", 16]]
_GLOBAL = re.compile(r"\b(?:ld|st)\.global\S*")
_WIDE = re.compile(r"\.v4\.[bfus]32|\.v2\.[bfus]64|\.v8\.[bfus]16|\.b128")


@dataclass(frozen=True)
class Built:
    """What one thread uses, and one block of shared memory; how many instructions read or write global memory, and how
    many of those move 128 bits."""

    registers: int
    spilled_bytes: int
    shared_bytes: int
    global_accesses: int
    wide_accesses: int


def build(compiled: Compiled, compute_capability: int) -> Built:
    """Compile one specialisation for a compute capability, such as 90. UserError under Triton's interpreter."""
    if os.environ.get("TRITON_INTERPRET") == "1":
        raise UserError("TRITON_INTERPRET=1 interprets Triton and compiles nothing: take it out of the environment")
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    function: Any = compiled.function
    aligned = {
        (function.arg_names.index(name),): _ALIGNED
        for name, kind in compiled.signature.items()
        if kind.startswith("*") or kind.endswith(":16")
    }
    signature = {name: kind.removesuffix(":16") for name, kind in compiled.signature.items()}
    signature |= dict.fromkeys(compiled.constexprs, "constexpr")
    source = ASTSource(function, signature, dict(compiled.constexprs), aligned)
    options = {"num_warps": compiled.num_warps, "num_stages": compiled.num_stages}
    made = triton.compile(source, target=GPUTarget("cuda", compute_capability, 32), options=options)
    accesses = _GLOBAL.findall(made.asm["ptx"])
    registers, spilled_bytes = _resources(made.asm["ptx"], compute_capability)
    wide = sum(bool(_WIDE.search(access)) for access in accesses)
    return Built(registers, spilled_bytes, made.metadata.shared, len(accesses), wide)


def _resources(ptx: str, compute_capability: int) -> tuple[int, int]:
    """Registers of a thread and the bytes it spills, as NVIDIA's assembler says."""
    from triton.backends.nvidia.compiler import get_ptxas

    architecture = re.findall(r"^\.target (\w+)", ptx, re.MULTILINE)[0]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "kernel.ptx")
        path.write_text(ptx, encoding="utf-8")
        command = [
            get_ptxas(compute_capability).path,
            "-v",
            f"--gpu-name={architecture}",
            str(path),
            "-o",
            f"{path}.cubin",
        ]
        said = subprocess.run(command, capture_output=True, encoding="utf-8", check=True).stderr
    used, stored, loaded = (
        int(re.findall(rf"(\d+) {what}", said)[-1]) for what in ("registers", "bytes spill stores", "bytes spill loads")
    )
    return used, stored + loaded

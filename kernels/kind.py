"""Kernels: which op has a Triton form, whether it would run here, why, and what it must move.

An op is a module of this folder with a plain torch reference, a Triton form and a public function that takes the one or
the other. Its `KERNEL` declares it: tests, `athanor kernels` and the tables of benchmarks read the declarations.

Invariant: on a CPU the public function is the reference, bit for bit; `interpreted()` is for tests alone. The choice
depends on the arguments' device, dtype, shape and strides and on the process's switch, never on their values, so that
torch.compile traces it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from athanor.core.errors import UserError
from athanor.core.kinds import Kinds

ENVIRONMENT = "ATHANOR_KERNELS"
os.environ.setdefault("TRITON_DEFAULT_FP_FUSION", "1")  # Triton 3.10 changes the default, and with it results

STORED = (torch.float32, torch.bfloat16, torch.float16)  # what Triton forms load and store; they compute in fp32


@dataclass(frozen=True)
class Cost:
    """The least that one call moves and computes: each input read once and each output written once, unless the op's
    docstring says what must be read twice."""

    read_bytes: int
    written_bytes: int
    flops: int

    @property
    def bytes(self) -> int:
        """Read and written."""
        return self.read_bytes + self.written_bytes


@dataclass(frozen=True)
class Example:
    """Arguments of the public function as a real preset has them."""

    name: str
    make: Callable[[torch.device, torch.dtype], tuple[Any, ...]]


@dataclass(frozen=True)
class Compiled:
    """One specialisation that is compiled ahead of time: a `@triton.jit` function with its arguments' types.

    `signature` gives every argument that is no constexpr a Triton type: `*bf16`, `i32`, `fp32`. Pointers are taken to
    be aligned to 16 bytes; an integer of a type that ends in `:16` to be a multiple of 16.
    """

    name: str
    function: Any
    signature: Mapping[str, str]
    constexprs: Mapping[str, Any]
    num_warps: int = 4
    num_stages: int = 3


@dataclass(frozen=True)
class Kernel:
    """One op. `refuses` and both costs take the arguments of the public function, of which they look at no value, so
    that meta and fake tensors will do."""

    name: str  # of the public function
    what: str  # one line for people
    reference: Callable[..., Any]
    refuses: Callable[..., str | None]  # why Triton cannot take these arguments; None where it can
    forward_cost: Callable[..., Cost]
    backward_cost: Callable[..., Cost]
    compiled: tuple[Compiled, ...]
    examples: tuple[Example, ...]


KERNELS: Kinds[Kernel] = Kinds("kernel", "athanor.kernels", "KERNEL")

_off: frozenset[str] = frozenset()
_interpreted = False
_note: Callable[[Kernel, tuple[Any, ...]], None] | None = None


def uses_triton(kernel: Kernel, *arguments: Any) -> bool:
    """Whether the public function takes the Triton form for these arguments."""
    taken = _why_reference(kernel, *arguments) is None
    if taken and _note is not None:
        _note(kernel, arguments)
    return taken


def choice(kernel: Kernel, *arguments: Any, on: torch.device | None = None) -> str:
    """The same for people: `Triton`, or `reference: ` and why; as if the arguments were on the device `on`."""
    reason = _why_reference(kernel, *arguments, on=on)
    return "Triton" if reason is None else f"reference: {reason}"


def _why_reference(kernel: Kernel, *arguments: Any, on: torch.device | None = None) -> str | None:
    if kernel.name in _off:
        return "switched off"
    device_type = (on or next(x.device for x in arguments if isinstance(x, Tensor))).type
    if device_type == "cpu" and not _interpreted and _note is None:
        return "Triton compiles nothing for a CPU"
    if device_type not in ("cpu", "cuda"):
        return f"Triton compiles nothing for {device_type}"
    return kernel.refuses(*arguments)


def unfit(*tensors: Tensor | None) -> str | None:
    """Why Triton cannot take these floating-point tensors together, by dtype; None where it can. For `refuses`."""
    dtypes = (x.dtype for x in tensors if x is not None)
    return next((reason for dtype in dtypes if (reason := unfit_dtype(dtype)) is not None), None)


def unfit_dtype(dtype: torch.dtype) -> str | None:
    """Why Triton cannot load or store this dtype; None where it can."""
    return None if dtype in STORED else f"{str(dtype).removeprefix('torch.')} is computed by torch"


def switch(names: str) -> None:
    """From now on this process uses these Triton forms: `all`, `none`, or names with commas between them. UserError for
    a name that no kernel has."""
    global _off
    _off = frozenset() if names == "all" else frozenset(KERNELS) - _named(names)


def _named(names: str) -> frozenset[str]:
    """The kernels that `none` or names with commas between them mean."""
    return frozenset() if names == "none" else frozenset(KERNELS[name.strip()].name for name in names.split(","))


def asked(setting: str) -> str:
    """What to `switch` to: what ATHANOR_KERNELS in the environment says, or else `setting`, the runtime's field.
    UserError for a name that no kernel has."""
    from_environment = os.environ.get(ENVIRONMENT)
    where, names = ("runtime.kernels", setting) if from_environment is None else (ENVIRONMENT, from_environment)
    if names != "all":
        try:
            _named(names)
        except UserError as error:
            raise UserError(f"{where}={names}: {error}; or all, or none") from None
    return names


@contextmanager
def interpreted() -> Iterator[None]:
    """Within: tensors on a CPU take the Triton form. TRITON_INTERPRET=1 must have stood in the environment when the
    op's module was imported."""
    global _interpreted
    before, _interpreted = _interpreted, True
    try:
        yield
    finally:
        _interpreted = before


@contextmanager
def counted(note: Callable[[Kernel, tuple[Any, ...]], None], names: str | None = None) -> Iterator[None]:
    """Within: tensors of a CPU that have no storage take the form that a GPU's would, and `note` hears of every call
    that takes Triton's, with its arguments; `names`, if given, are what the process is switched to."""
    global _note, _off
    before, _note, off = _note, note, _off
    if names is not None:
        switch(names)
    try:
        yield
    finally:
        _note, _off = before, off

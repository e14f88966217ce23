"""How a Triton function is started: on the device of its tensors, and not at all where there is nothing to do."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor


def launch(function: Any, programs: int, *arguments: Any, **constants: Any) -> None:
    """Start so many programs of a `@triton.jit` function on the device of its first argument, a tensor. `constants` are
    its constexprs and the compiler's options, such as num_warps."""
    if programs == 0:
        return
    first: Tensor = arguments[0]
    with torch.cuda.device(first.device) if first.is_cuda else nullcontext():
        function[(programs,)](*arguments, **constants)

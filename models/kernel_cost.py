"""What our own kernels cost in a count: their records say it, from the arguments of the public function.

A call of the public function is noted as it chooses Triton (kernels/kind.py); the operation `athanor::NAME` that
follows is that call, and `athanor::NAME_backward` is of the newest call that has not come back yet, as backward passes
go. FLOPs of a kernel with tl.dot go at the rate of products, those of all others at that of fp32.
"""

from __future__ import annotations

import inspect
from collections import defaultdict
from functools import cache
from typing import Any

from athanor.kernels.kind import KERNELS, Cost, Kernel
from athanor.models.op_cost import OpCost, Rate

BACKWARD = "_backward"


class KernelCosts:
    """The calls of one count that goes on."""

    def __init__(self) -> None:
        self._forward: dict[str, Cost] = {}
        self._backward: defaultdict[str, list[Cost]] = defaultdict(list)

    def note(self, kernel: Kernel, arguments: tuple[Any, ...]) -> None:
        """A call with these arguments of the public function is about to come."""
        self._forward[kernel.name] = kernel.forward_cost(*arguments)
        self._backward[kernel.name].append(kernel.backward_cost(*arguments))

    def of(self, func: Any, moved: OpCost | None) -> OpCost | None:
        """The recorded cost of an operation of ours; `moved`, what its tensors say, for every other."""
        if func.namespace != "athanor" or moved is None:
            return moved
        name = moved.name.removesuffix(BACKWARD)
        calls = self._backward[name] if moved.name.endswith(BACKWARD) else [*filter(None, [self._forward.get(name)])]
        if not calls:
            return moved
        cost = calls.pop()
        return OpCost(moved.name, "kernels", cost.read_bytes, cost.written_bytes, cost.flops, _rate(name))


@cache
def _rate(name: str) -> Rate:
    sources = (inspect.getsource(one.function.fn) for one in KERNELS[name].compiled)
    return "product" if any("tl.dot" in source for source in sources) else "fp32 product"

"""What interpreted Triton kernels read and write, and whether they stay within the tensors they are given."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch
from triton.runtime import interpreter


@dataclass
class Traffic:
    """Bytes that the programs of the kernels read and wrote."""

    read_bytes: int = 0
    written_bytes: int = 0
    _spans: list[tuple[int, int]] = field(default_factory=list)

    def let(self, tensors: list[object]) -> None:
        """Those of a launch may be touched, from their first element to their last."""
        for x in tensors:
            if isinstance(x, torch.Tensor) and x.numel():
                last = sum((size - 1) * stride for size, stride in zip(x.shape, x.stride(), strict=True))
                self._spans.append((x.data_ptr(), x.data_ptr() + (last + 1) * x.element_size()))

    def touched_bytes(self, addresses: np.ndarray, mask: np.ndarray, size_bytes: int) -> int:
        """How many an access touches. AssertionError outside the tensors."""
        touched = addresses[np.broadcast_to(mask, addresses.shape)]
        inside = np.zeros(touched.shape, bool)
        for start, stop in self._spans:
            inside |= (touched >= start) & (touched + size_bytes <= stop)
        assert inside.all(), "a kernel touches memory outside its tensors"
        return int(touched.size) * size_bytes


@contextmanager
def traffic() -> Iterator[Traffic]:
    """Counts within: of kernels that run under TRITON_INTERPRET=1."""
    found = Traffic()
    builder, executor = interpreter.InterpreterBuilder, interpreter.GridExecutor
    load, store, arguments = builder.create_masked_load, builder.create_masked_store, executor._init_args_hst

    def size_bytes(pointers) -> int:
        return max(1, pointers.get_element_ty().primitive_bitwidth // 8)

    def counted_load(self, pointers, mask, *rest):
        found.read_bytes += found.touched_bytes(pointers.data, mask.data, size_bytes(pointers))
        return load(self, pointers, mask, *rest)

    def counted_store(self, pointers, value, mask, *rest):
        found.written_bytes += found.touched_bytes(pointers.data, mask.data, size_bytes(pointers))
        return store(self, pointers, value, mask, *rest)

    def known_arguments(self, given, named):
        on_host, named_on_host = arguments(self, given, named)
        found.let([*on_host, *named_on_host.values()])
        return on_host, named_on_host

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(builder, "create_masked_load", counted_load)
        patch.setattr(builder, "create_masked_store", counted_store)
        patch.setattr(executor, "_init_args_hst", known_arguments)
        yield found


TOLERANCE = {
    torch.float32: 1e-5,
    torch.bfloat16: 1.6e-2,
}  # of the largest value; bf16 has 8 bits, cut off by Triton's interpreter


def agree(op, definition, arguments, others=()) -> None:
    """Values and gradients of `op(*arguments, *others)` are those of the definition in float64.

    AssertionError where they are further apart than the coarsest dtype allows.
    """
    generator = torch.Generator().manual_seed(0)
    fine = [None if x is None else x.detach().double().requires_grad_() for x in arguments]
    given = [None if x is None else x.detach().requires_grad_() for x in arguments]
    wanted, found = (_several(f(*tensors, *others)) for f, tensors in ((definition, fine), (op, given)))
    weights = [torch.randn(x.shape, generator=generator).to(x.dtype) for x in found]
    for outputs, tensors in ((wanted, fine), (found, given)):
        loss = sum((x * w.to(x.dtype)).sum() for x, w in zip(outputs, weights, strict=True))
        leaves = [x for x in tensors if x is not None]
        outputs += torch.autograd.grad(loss, leaves)
    tolerance = max(TOLERANCE[x.dtype] for x in arguments if x is not None)
    for x, y in zip(found, wanted, strict=True):
        limit = tolerance * max(1.0, float(y.detach().abs().max())) if y.numel() else 0.0
        torch.testing.assert_close(x.double(), y, rtol=0.0, atol=limit)


def _several(outputs) -> list[torch.Tensor]:
    return list(outputs) if isinstance(outputs, tuple) else [outputs]

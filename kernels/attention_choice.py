"""Which backend computes an attention: a function of what is asked alone, which gives its reasons.

    varlen      flash attention document by document: torch.nn.attention.varlen (athanor.kernels.varlen_attention)
    flex        FlexAttention under a mask of blocks, with sinks, caps, values of another width
                (athanor.kernels.flex_attention)
    reference   everything else, on every device: athanor.kernels.attention.reference, whose unmasked whole rows are
                flash attention too

The first of them that claims a call takes it. Both fused ones compute in 16 bits, and only whole rows: cached decoding,
the queries of a subset and arbitrary masks are the reference's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

from athanor.kernels.precision import products_dtype
from athanor.kernels.span import Span

FLASH_CAPABILITY = (8, 0)
FLASH_MOST_CHANNELS = 256
FLASH_MULTIPLE = 8
FLEX_LEAST_CHANNELS = 16


@dataclass(frozen=True)
class Heads:
    """What a layer asks of all its attention."""

    head_dim: int
    value_dim: int
    cap: float | None = None
    sink: int = 0


@dataclass(frozen=True)
class Call:
    """What the choice depends on."""

    device_type: str
    compute_capability: tuple[int, int] | None  # of the GPU; None where there is none, or tensors have no storage
    dtype: torch.dtype  # of the products
    head_dim: int
    value_dim: int
    cap: float | None = None
    bounded: bool = True  # by a span
    whole_rows: bool = True
    sink: int = 0

    @classmethod
    def of_training(cls, heads: Heads, device: torch.device, dtype: torch.dtype) -> Call:
        """That of packed rows, products in `dtype`."""
        capability = FLASH_CAPABILITY if _stand_in is not None else None
        if capability is None and device.type == "cuda":
            capability = torch.cuda.get_device_capability(device)
        return cls(device.type, capability, dtype, heads.head_dim, heads.value_dim, heads.cap, sink=heads.sink)

    @classmethod
    def of(cls, q_BTHd: Tensor, v_BSGe: Tensor, span: Span | None, cap: float | None) -> Call:
        """That of these tensors."""
        return cls(
            q_BTHd.device.type if _stand_in is None else "cuda",
            None if span is None else span.once(compute_capability),
            products_dtype(q_BTHd),
            q_BTHd.shape[-1],
            v_BSGe.shape[-1],
            cap,
            span is not None,
            span is None or span.whole_rows,
            0 if span is None else span.sink,
        )


@dataclass(frozen=True)
class Choice:
    """The backend, and why it is not one before it: a reason each, by name."""

    backend: str
    refused: dict[str, str]

    def __str__(self) -> str:
        reasons = [f"{name}: {reason}" for name, reason in self.refused.items()]
        return self.backend if not reasons else f"{self.backend} ({'; '.join(reasons)})"


def choose(call: Call) -> Choice:
    """The first backend that claims the call."""
    refused: dict[str, str] = {}
    for backend, refusal in {"varlen": _varlen_refusal, "flex": _flex_refusal}.items():
        if (reason := _fused_refusal(call) or refusal(call)) is None:
            return Choice(backend, refused)
        refused[backend] = reason
    return Choice("reference", refused)


def _fused_refusal(call: Call) -> str | None:
    if call.device_type != "cuda":
        return f"has no kernel for {call.device_type}"
    if not call.bounded:
        return "one document needs no bounds"
    if call.compute_capability is None:
        return "no GPU holds the tensors"
    if call.compute_capability < FLASH_CAPABILITY:
        return "needs compute capability {}.{}, the GPU has {}.{}".format(*FLASH_CAPABILITY, *call.compute_capability)
    if call.dtype not in (torch.bfloat16, torch.float16):
        return f"computes in 16 bits, not in {str(call.dtype).removeprefix('torch.')}"
    return None if call.whole_rows else "queries and keys are not those of whole rows"


def _varlen_refusal(call: Call) -> str | None:
    if call.cap is not None:
        return "has no cap"
    if call.sink:
        return "has no sinks"
    if call.value_dim != call.head_dim:
        return f"values are {call.value_dim} channels wide, keys {call.head_dim}"
    if call.head_dim > FLASH_MOST_CHANNELS or call.head_dim % FLASH_MULTIPLE:
        return f"heads of {call.head_dim} channels, not a multiple of {FLASH_MULTIPLE} up to {FLASH_MOST_CHANNELS}"
    return None


def _flex_refusal(call: Call) -> str | None:
    narrowest = min(call.head_dim, call.value_dim)
    if narrowest < FLEX_LEAST_CHANNELS:
        return f"heads of {narrowest} channels, fewer than {FLEX_LEAST_CHANNELS}"
    return None


Attend = Callable[[Tensor, Tensor, Tensor, Span, float | None], Tensor]
_stand_in: Attend | None = None


@contextmanager
def counted_on_a_gpu(attend: Attend) -> Iterator[None]:
    """Within, the choice is that of a GPU with flash attention, as all have whose data sheet is known
    (models/device.py); `attend` stands in for what fused backends compute, of tensors without storage."""
    global _stand_in
    before, _stand_in = _stand_in, attend
    try:
        yield
    finally:
        _stand_in = before


def stand_in() -> Attend | None:
    """What computes in place of the fused backends while a step is counted."""
    return _stand_in


def compute_capability(span: Span) -> tuple[int, int] | None:
    """That of the GPU that holds a span, or that a count is about; None where none does."""
    if _stand_in is not None:
        return FLASH_CAPABILITY
    starts = span.doc_start_BT
    if not starts.is_cuda or isinstance(starts, FakeTensor):
        return None
    return torch.cuda.get_device_capability(starts.device)

"""Peak memory of a training step, counted without allocating any of it.

A step runs on tensors that have shapes but no storage (`FakeTensorMode`), forward and backward, while every storage
that appears and goes is counted. So activations, what autograd keeps, casts, chunks of the loss and temporaries are
those of the model's own code, whatever its family; no formula per family exists. What a storage-less run cannot know,
how many tokens a router sends to each expert, is taken as even.

It counts the reference path: kernels that recompute hold less, so on a GPU that has them the estimate is an upper
bound. What a library takes inside one operation (GEMM workspaces, the CUDA context) is not a tensor and not counted;
`DEVICE_OVERHEAD_BYTES` stands for it.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Literal
from unittest.mock import patch

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from athanor.kernels import cross_entropy, polyglu
from athanor.models.build import build_on_meta
from athanor.models.model_recipe import ModelRecipe
from athanor.models.skeleton import LanguageModel

aten = torch.ops.aten
DEVICE_OVERHEAD_BYTES = {"cpu": 0, "cuda": 1 << 30}  # context, library workspaces and the allocator's rounding
USABLE_SHARE = 0.92  # of a device; the rest is fragmentation
MOST_CHUNKS = 8  # of a micro-batch; smaller ones take long to count and change the peak by a per cent or two


@dataclass(frozen=True)
class StepMemory:
    """Bytes on one device. `activations_bytes` is all that comes and goes within a step, at its peak."""

    weights_bytes: int
    gradients_bytes: int
    optimizer_bytes: int
    activations_bytes: int

    @property
    def total_bytes(self) -> int:
        """The peak."""
        return self.weights_bytes + self.gradients_bytes + self.optimizer_bytes + self.activations_bytes


def step_memory(
    recipe: ModelRecipe,
    rows: int,
    seq_len_tokens: int,
    *,
    precision: torch.dtype = torch.float32,
    device_type: str = "cpu",
    optimizer_bytes_per_parameter: float = 8.0,
    gradient_bytes_per_parameter: float = 4.0,
    ranks: int = 1,
    zero_stage: Literal[0, 1, 2, 3] = 0,
    prepare: Callable[[LanguageModel], None] | None = None,
) -> StepMemory:
    """Peak of forward and backward of `rows` packed rows, with fp32 weights, gradients and optimizer state in place.

    `precision` other than float32 means autocast. ZeRO divides over `ranks`: from stage 1 the optimizer state, from 2
    the gradients, from 3 the weights. `prepare` is called with the model before the step, e.g. to switch activation
    checkpointing on. recipe.vocab_size must be filled in.
    """
    weights, activations = _count(recipe, rows, seq_len_tokens, precision, device_type, prepare)
    parameters = weights.parameters

    def share(stage: int) -> int:
        return ranks if zero_stage >= stage else 1

    return StepMemory(
        weights_bytes=round(weights.bytes / share(3)),
        gradients_bytes=round(parameters * gradient_bytes_per_parameter / share(2)),
        optimizer_bytes=round(parameters * optimizer_bytes_per_parameter / share(1)),
        activations_bytes=activations,
    )


def largest_micro_batch_rows(device_bytes: float, memory_of: Callable[[int], StepMemory], most_rows: int) -> int:
    """The most rows, at most `most_rows`, whose step fits a device of `device_bytes`; at least 1.

    `memory_of(rows)` is `step_memory` with everything else filled in. Rows cost alike, so a few evaluations on the
    line through one row and the best known answer are enough.
    """
    room = device_bytes * USABLE_SHARE
    fits, misfit = 1, most_rows + 1
    one = memory_of(1).total_bytes
    guess = min(2, most_rows)
    while misfit - fits > 1:
        guess = min(max(guess, fits + 1), misfit - 1)
        used = memory_of(guess).total_bytes
        fits, misfit = (guess, misfit) if used <= room else (fits, guess)
        per_row = max(1.0, (used - one) / (guess - 1))
        guess = int((room - one) / per_row) + 1
    return fits


@dataclass(frozen=True)
class _Weights:
    parameters: int
    bytes: int


def _count(
    recipe: ModelRecipe,
    rows: int,
    seq_len_tokens: int,
    precision: torch.dtype,
    device_type: str,
    prepare: Callable[[LanguageModel], None] | None,
) -> tuple[_Weights, int]:
    model = build_on_meta(recipe)
    model.begin_step(0)
    tensors = {t.untyped_storage()._cdata: t for t in (*model.parameters(), *model.buffers())}
    weights = _Weights(sum(p.numel() for p in model.parameters()), sum(t.nbytes for t in tensors.values()))
    with FakeTensorMode(allow_non_fake_inputs=True), _chunks_of(device_type, recipe, rows * seq_len_tokens):
        model.to_empty(device="cpu").train()
        if prepare is not None:
            prepare(model)
        for parameter in model.parameters():
            parameter.grad = torch.empty_like(parameter)
        there = [*model.parameters(), *(p.grad for p in model.parameters() if p.grad is not None), *model.buffers()]
        ids_BT, doc_start_BT = (torch.zeros(rows, seq_len_tokens, dtype=torch.long) for _ in range(2))
        row_key_B = torch.zeros(rows, dtype=torch.long)
        with _StorageCount(there, _scheduled_values(model)) as storages:
            with torch.autocast("cpu", precision, enabled=precision != torch.float32):
                loss = model.loss(ids_BT, ids_BT.clone(), doc_start_BT, row_key_B)
            torch.stack([loss.total, *loss.aux.values()]).sum().backward()
    return weights, storages.peak_bytes


def _scheduled_values(model: LanguageModel) -> dict[int, float]:
    """Storage -> value of the scalar buffers, as at the end of training, when every mechanism is at work."""
    values = model.schedule(1.0)
    return {buffer.untyped_storage()._cdata: values.get(name, 0.0) for name, buffer in model.named_buffers()}


@contextmanager
def _chunks_of(device_type: str, recipe: ModelRecipe, tokens: int) -> Iterator[None]:
    """Let the kernels that work in chunks take the chunks they take on that device, but at most MOST_CHUNKS."""
    widths = ((cross_entropy, recipe.vocab_size or 0), (polyglu, recipe.d_ff))
    with ExitStack() as patches:
        for kernel, width in widths:
            elements = max(kernel._CHUNK_ELEMENTS[device_type], tokens * width // MOST_CHUNKS)
            patches.enter_context(patch.dict(kernel._CHUNK_ELEMENTS, cpu=elements))
        yield


class _StorageCount(TorchDispatchMode):
    """Counts the bytes of storages made while it is active and still referenced, beside those that are `there`.

    `known` are the values of scalars by storage.
    """

    def __init__(self, there: list[Tensor], known: dict[int, float]):
        super().__init__()
        self.peak_bytes = 0
        self._live_bytes = 0
        self._sizes = {tensor.untyped_storage()._cdata: 0 for tensor in there}
        self._known = known
        self._even_count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is aten._local_scalar_dense.default:
            return self._known.get(args[0].untyped_storage()._cdata, self._even_count)
        if func is aten.bincount.default:
            bins = kwargs.get("minlength", args[-1])
            self._even_count = -(-args[0].numel() // bins)
            result = args[0].new_zeros(bins)
        else:
            result = func(*args, **kwargs)
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self._add(leaf.untyped_storage())
        return result

    def _add(self, storage: torch.UntypedStorage) -> None:
        place = storage._cdata
        if place not in self._sizes:
            self._sizes[place] = storage.nbytes()
            self._live_bytes += storage.nbytes()
            self.peak_bytes = max(self.peak_bytes, self._live_bytes)
            weakref.finalize(storage, self._remove, place)

    def _remove(self, place: int) -> None:
        self._live_bytes -= self._sizes.pop(place)

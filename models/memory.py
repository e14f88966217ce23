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
from itertools import cycle
from typing import Any, Literal

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
class Layout:
    """How a training state lies on `ranks`. By ZeRO's count of stages each keeps its part alone of the optimizer state
    from stage 1, of the gradients from 2, of the weights from 3.

    What is sharded is whole while it is used: at stage 3 the weights and gradients of the largest unit, and of all that
    is no unit, or as many weights as `live_parameters` and gradients as `bucket_parameters`, where those are more.
    `copies_weights` is an optimizer with a copy of its own of the weights it updates. `offload` keeps the optimizer
    with its gradients, or the weights too, in host memory.
    """

    ranks: int = 1
    stage: int = 0
    live_parameters: int = 0
    bucket_parameters: int = 0
    copies_weights: bool = False
    offload: Literal["none", "optimizer", "parameters"] = "none"

    def share(self, stage: int) -> int:
        """Parts into which what is sharded from `stage` on falls."""
        return self.ranks if self.stage >= stage else 1


@dataclass(frozen=True)
class StepMemory:
    """Bytes of one rank on its device. `activations_bytes` is all that comes and goes within a step, at its peak;
    `host_bytes` lie in host memory instead."""

    weights_bytes: int
    gradients_bytes: int
    optimizer_bytes: int
    activations_bytes: int
    host_bytes: int = 0

    @property
    def total_bytes(self) -> int:
        """The peak on the device."""
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
    layout: Layout = Layout(),
    prepare: Callable[[LanguageModel], None] | None = None,
) -> StepMemory:
    """Peak of forward and backward of `rows` packed rows, with fp32 weights, gradients and optimizer state in place.

    `precision` other than float32 means autocast. `prepare` is called with the model before the step, e.g. to switch
    activation checkpointing on. recipe.vocab_size must be filled in.
    """
    weights, activations = _count(recipe, rows, seq_len_tokens, precision, device_type, prepare)
    parameters, whole = weights.parameters, weights.gathered_parameters if layout.stage == 3 else 0
    weight_bytes = weights.bytes / parameters
    live = max(whole, min(parameters, layout.live_parameters)) * weight_bytes
    bucket = max(whole, min(parameters, layout.bucket_parameters)) * gradient_bytes_per_parameter
    kept = {
        "weights": weights.bytes / layout.share(3),
        "gradients": parameters * gradient_bytes_per_parameter / layout.share(2),
        "optimizer": parameters * optimizer_bytes_per_parameter / layout.share(1),
    }
    if layout.copies_weights:
        kept["optimizer"] += weights.bytes / layout.share(1)
    moved: set[str] = set()
    if device_type != "cpu" and layout.offload != "none":
        moved = {"optimizer"} | ({"gradients"} if layout.stage >= 2 else set())
        moved |= {"weights"} if layout.offload == "parameters" else set()
    here = {name: 0.0 if name in moved else part_bytes for name, part_bytes in kept.items()}
    return StepMemory(
        weights_bytes=round(here["weights"] + live),
        gradients_bytes=round(here["gradients"] + bucket),
        optimizer_bytes=round(here["optimizer"]),
        activations_bytes=activations,
        host_bytes=round(sum(kept[name] for name in moved)),
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
    """`gathered_parameters` are those of the largest unit and of all that is no unit."""

    parameters: int
    bytes: int
    gathered_parameters: int


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
    parameters = sum(p.numel() for p in model.parameters())
    units = [sum(p.numel() for p in unit.parameters()) for unit in model.units()]
    gathered = parameters - sum(units) + max(units, default=0)
    weights = _Weights(parameters, sum(t.nbytes for t in tensors.values()), gathered)
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
    with ExitStack() as sizes:
        for chunks, width in ((cross_entropy.CHUNKS, recipe.vocab_size or 0), (polyglu.CHUNKS, recipe.d_ff)):
            sizes.enter_context(chunks.instead(max(chunks.elements(device_type), tokens * width // MOST_CHUNKS)))
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
        self._even_counts: Iterator[int] = cycle([0])

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is aten._local_scalar_dense.default:
            place = args[0].untyped_storage()._cdata
            return self._known[place] if place in self._known else next(self._even_counts)
        if func is aten.bincount.default:
            bins = kwargs.get("minlength", args[-1])
            tokens = args[0].numel()
            self._even_counts = cycle([(tokens + place) // bins for place in range(bins)])
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

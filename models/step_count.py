"""A training step on tensors that have shapes but no storage: what it keeps in memory, and what it launches.

The step is that of the model's own code, forward and backward, whatever its family (`FakeTensorMode`); every storage
that appears and goes is followed, and every operation is entered with what it moves and computes (models/op_cost.py),
our own kernels with what their records say (models/kernel_cost.py). models/memory.py and models/roofline.py read the
two out. What a storage-less run cannot know, how many tokens a router sends to each expert, is taken as even; a core
that runs a random number of times runs as often as on average.

A build of torch without CUDA cannot pretend a GPU in the backward pass, so the tensors are a processor's. Chunks,
kernels and attention (models/gpu_attention.py) are those of the device that is asked about all the same; what remains
different is that under autocast a GPU would compute a few more elementwise operations (powers, exponentials, sums) in
fp32.
"""

from __future__ import annotations

import math
import weakref
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import lru_cache
from itertools import cycle
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from athanor.kernels.chunks import counted_as_on
from athanor.kernels.kind import counted
from athanor.models.build import build_on_meta
from athanor.models.gpu_attention import attention_of_gpus
from athanor.models.kernel_cost import KernelCosts
from athanor.models.model_recipe import ModelRecipe
from athanor.models.op_cost import OpCost, op_cost
from athanor.models.skeleton import LanguageModel

aten, prim = torch.ops.aten, torch.ops.prim
Prepare = Callable[[LanguageModel], None]


@dataclass(frozen=True)
class StepCount:
    """Of one micro-batch. `gathered_parameters` are those of the largest unit and of all that is no unit; `peak_bytes`
    is the most that came and went beside weights and gradients; `launches` says how often each cost was met, and
    `host_reads` how often the host waited for a value."""

    parameters: int
    weights_bytes: int
    gathered_parameters: int
    peak_bytes: int
    launches: Mapping[OpCost, int]
    host_reads: int


def count_step(
    recipe: ModelRecipe,
    rows: int,
    seq_len_tokens: int,
    precision: torch.dtype,
    device_type: str,
    prepare: Prepare | None = None,
    prepare_period: int = 1,
    kernels: str = "all",
) -> StepCount:
    """Forward and backward of `rows` packed rows. `precision` other than float32 means autocast; `prepare` is called
    with the model before the step, e.g. to switch recomputation on, and treats blocks alike after `prepare_period` of
    them; `kernels` are those that a GPU is switched to (kernels/kind.py). recipe.vocab_size must be filled in.

    Where blocks are alike, two shallow models are counted and the line through them is followed. All that is launched
    lies on it; an operation that itself grows with depth, such as a stack of every layer's loss, appears as a
    difference of two. The peak is looked for in three parts. In the forward pass, and in the backward pass down to the
    second block, it grows by what a block leaves behind, which is checked; the first block and the embedding come when
    all else is gone, so what they take does not depend on depth.
    """
    asked = (rows, seq_len_tokens, precision, device_type, prepare, kernels)
    return _count(recipe.model_dump_json(), prepare_period, *asked)


@lru_cache(maxsize=64)
def _count(recipe_json: str, prepare_period: int, *asked: Any) -> StepCount:
    recipe = ModelRecipe.model_validate_json(recipe_json)
    model = build_on_meta(recipe)
    tensors = {t.untyped_storage()._cdata: t for t in (*model.parameters(), *model.buffers())}
    parameters = sum(p.numel() for p in model.parameters())
    units = [sum(p.numel() for p in unit.parameters()) for unit in model.units()]
    one = _followed(recipe, model.repeating_layers, prepare_period, asked) or _counted(recipe, *asked)
    return StepCount(
        parameters,
        sum(tensor.nbytes for tensor in tensors.values()),
        parameters - sum(units) + max(units, default=0),
        max(one.peaks),
        one.launches,
        one.host_reads,
    )


@dataclass(frozen=True)
class _Counted:
    """`peaks` in bytes of the forward pass, of the backward pass down to the second block, and of the rest; `left`
    live at the end of the forward pass and when the backward pass begins, where casts of the weights are gone."""

    peaks: tuple[int, ...]
    left: tuple[int, int]
    launches: Mapping[OpCost, int]
    host_reads: int


def _followed(
    recipe: ModelRecipe, repeating: tuple[int, int] | None, prepare_period: int, asked: tuple[Any, ...]
) -> _Counted | None:
    """A deep model from two shallow ones; None where that would not be exact."""
    if repeating is None:
        return None
    least, period = repeating[0], math.lcm(repeating[1], prepare_period)
    shallow = least + (recipe.n_layers - least) % period
    if 2 * shallow + period >= recipe.n_layers:
        return None
    steps = (recipe.n_layers - shallow) // period
    one, two = (
        _counted(recipe.model_copy(update={"n_layers": layers}), *asked) for layers in (shallow, shallow + period)
    )
    grown = tuple(second - first for first, second in zip(one.left, two.left, strict=True))
    if tuple(second - first for first, second in zip(one.peaks[:2], two.peaks[:2], strict=True)) != grown:
        return None
    costs = one.launches.keys() | two.launches.keys()

    def at(first: int, second: int) -> int:
        return first + steps * (second - first)

    return _Counted(
        (*map(at, one.peaks[:2], two.peaks[:2]), two.peaks[2]),
        (at(one.left[0], two.left[0]), at(one.left[1], two.left[1])),
        {cost: at(one.launches.get(cost, 0), two.launches.get(cost, 0)) for cost in costs},
        at(one.host_reads, two.host_reads),
    )


def _counted(
    recipe: ModelRecipe,
    rows: int,
    seq_len_tokens: int,
    precision: torch.dtype,
    device_type: str,
    prepare: Prepare | None,
    kernels: str = "all",
) -> _Counted:
    model = build_on_meta(recipe)
    with FakeTensorMode(allow_non_fake_inputs=True):
        model.to_empty(device="cpu").train()
        if prepare is not None:
            prepare(model)
        for parameter in model.parameters():
            parameter.grad = torch.empty_like(parameter)
        there = [*model.parameters(), *(p.grad for p in model.parameters() if p.grad is not None), *model.buffers()]
        ids_BT, doc_start_BT = (torch.zeros(rows, seq_len_tokens, dtype=torch.long) for _ in range(2))
        row_key_B = torch.zeros(rows, dtype=torch.long)
        with (
            Watch(there, _scheduled_values(model)) as watch,
            counted_as_on(device_type, watch.repeat),
            ExitStack() as on_a_gpu,
        ):
            if device_type != "cpu":
                on_a_gpu.enter_context(attention_of_gpus())
                on_a_gpu.enter_context(counted(watch.kernels.note, kernels))
            storages = watch.storages
            _when_backward_reaches_the_first_unit(model, storages.begin_part)
            with torch.autocast("cpu", precision, enabled=precision != torch.float32):
                loss = model.loss(ids_BT, ids_BT.clone(), doc_start_BT, row_key_B)
                forward_bytes = storages.live_bytes
            objective = torch.stack([loss.total, *loss.aux.values()]).sum()
            kept_bytes = storages.live_bytes
            storages.begin_part()
            objective.backward()
    return _Counted(tuple(storages.peaks), (forward_bytes, kept_bytes), watch.launches, watch.host_reads)


def _when_backward_reaches_the_first_unit(model: LanguageModel, act: Callable[[], None]) -> None:
    """Where depth can be followed, and so every unit is called once."""
    if model.repeating_layers is not None and len(model.units()) > 1:

        def watch_input(_unit: nn.Module, args: tuple[Any, ...]) -> None:
            args[0].register_hook(lambda _grad: act())

        model.units()[1].register_forward_pre_hook(watch_input)


def _scheduled_values(model: LanguageModel) -> dict[int, float]:
    """Storage -> value of the scalar buffers, as at the end of training, when every mechanism is at work."""
    values = model.schedule(1.0)
    return {buffer.untyped_storage()._cdata: values.get(name, 0.0) for name, buffer in model.named_buffers()}


class Watch(TorchDispatchMode):
    """Enters every operation. `known` are the values of scalars by storage."""

    def __init__(self, there: list[Tensor], known: dict[int, float]):
        super().__init__()
        self.storages = _Storages(there)
        self.kernels = KernelCosts()
        self.launches: Counter[OpCost] = Counter()
        self.host_reads = 0
        self._repeats = 1
        self._known = known
        self._even_counts: Iterator[int] = cycle([0])

    def repeat(self, times: int) -> None:
        """What comes stands for so many of its like."""
        self._repeats = times

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is prim.device.default:
            return args[0].fake_device  # half of all calls, and no operation
        kwargs = kwargs or {}
        if func is aten._local_scalar_dense.default:
            self.host_reads += self._repeats
            place = args[0].untyped_storage()._cdata
            return self._known[place] if place in self._known else next(self._even_counts)
        if func is aten.bincount.default:
            bins = kwargs.get("minlength", args[-1])
            tokens = args[0].numel()
            self._even_counts = cycle([(tokens + place) // bins for place in range(bins)])
            result = args[0].new_zeros(bins)
        else:
            result = func(*args, **kwargs)
        if (cost := self.kernels.of(func, op_cost(func, args, kwargs, result))) is not None:
            self.launches[cost] += self._repeats
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self.storages.add(leaf.untyped_storage())
        return result


class _Storages:
    """Bytes of the storages that are referenced, beside those that are `there`: now, and at most in each part."""

    def __init__(self, there: list[Tensor]):
        self.peaks = [0]
        self.live_bytes = 0
        self._sizes = {tensor.untyped_storage()._cdata: 0 for tensor in there}

    def begin_part(self) -> None:
        """What comes is another part."""
        self.peaks.append(self.live_bytes)

    def add(self, storage: torch.UntypedStorage) -> None:
        """Follow a storage from now on until it goes."""
        place = storage._cdata
        if place not in self._sizes:
            self._sizes[place] = storage.nbytes()
            self.live_bytes += storage.nbytes()
            self.peaks[-1] = max(self.peaks[-1], self.live_bytes)
            weakref.finalize(storage, self._remove, place)

    def _remove(self, place: int) -> None:
        self.live_bytes -= self._sizes.pop(place)

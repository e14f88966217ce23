"""What every Triton form is held to on a CPU: values and gradients, traffic, bounds, one graph, the compiler's output.

`on_triton()` runs Triton's interpreter, counts what it loads and stores, and refuses an access outside of the tensors
that a launch was given. `built()` compiles ahead of time in a process that does not interpret.
"""

import json
import math
import os
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import torch
import triton.language as tl
import triton.runtime.interpreter as interpreter
from hypothesis import strategies as st
from torch.utils._pytree import tree_map

from athanor.kernels.kind import interpreted

# Of a result stored in that type, against float64: of the largest element, since sums lose in proportion to that.
CANCELLED = 1e-14  # float64 itself is off by as much where 1 - tanh^2 is next to nothing
TOLERANCES = {torch.float32: 2e-6, torch.bfloat16: 2.0**-8, torch.float16: 2.0**-11}
TRAFFIC_READ_ONCE, TRAFFIC_READ_TWICE = 1.10, 1.25  # of the cost record

# Not powers of two, one, none, more than a block.
rows = st.sampled_from([0, 1, 2, 3, 5, 17])
widths = st.sampled_from([1, 2, 7, 16, 33, 128, 129, 1000, 1025, 2050])
dtypes = st.sampled_from(list(TOLERANCES)[:2])


@st.composite
def tensors(draw, shape, count, dtype, scale=1.0):
    """`count` tensors of a shape in one dtype: contiguous, or slices of wider rows, or halves of one packed tensor."""
    form = draw(st.sampled_from(["contiguous", "padded", "packed"]))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**16)))
    *outer, width = shape
    if form == "packed":
        packed = torch.randn(*outer, count * width, generator=generator).mul(scale).to(dtype)
        return list(packed.split(width, -1)) if width else [packed] * count
    wide = width + (8 if form == "padded" else 0)
    return [torch.randn(*outer, wide, generator=generator).mul(scale).to(dtype)[..., :width] for _ in range(count)]


@dataclass
class Traffic:
    """Bytes that launches loaded and stored. Of tensors in `cached`, which lie in the cache while a launch runs, each
    launch's repeated reads count once."""

    cached: tuple = ()
    read_bytes: int = 0
    written_bytes: int = 0
    launches: int = 0
    _bounds: list = field(default_factory=list)
    _seen: set = field(default_factory=set)

    @property
    def bytes(self):
        return self.read_bytes + self.written_bytes

    def launched(self, arguments):
        """A launch begins, with these tensors."""
        self.launches += 1
        self._bounds = [_addresses(x) for x in arguments if isinstance(x, torch.Tensor) and x.numel()]
        self._seen = set()

    def read(self, addresses, itemsize):
        cached = np.zeros(addresses.shape, bool)
        for x in self.cached:
            start = x.untyped_storage().data_ptr()
            cached |= (addresses >= start) & (addresses < start + x.untyped_storage().nbytes())
        fresh = set(addresses[cached].tolist()) - self._seen
        self._seen |= fresh
        self.read_bytes += (int((~cached).sum()) + len(fresh)) * itemsize

    def check(self, addresses):
        """Every address is that of an element of a tensor of the launch."""
        inside = np.zeros(addresses.shape, bool)
        for start, end, elements in self._bounds:
            within = (addresses >= start) & (addresses < end)
            inside |= within if elements is None else within & np.isin(addresses, elements)
        assert inside.all(), f"{int((~inside).sum())} accesses outside of the tensors of the launch"


def _addresses(x):
    """First and last address and, where there are gaps between them, those of all elements."""
    size = x.element_size()
    start = x.data_ptr()
    end = start + (sum((n - 1) * step for n, step in zip(x.shape, x.stride(), strict=True)) + 1) * size
    if end - start == x.numel() * size:
        return start, end, None
    storage = torch.arange(0, (end - start) // size, dtype=torch.int64)
    offsets = torch.as_strided(storage, x.shape, x.stride()).flatten().numpy()
    return start, end, (start + offsets * size).astype(np.uint64)


@contextmanager
def on_triton(cached=()):
    """Within: CPU tensors take the Triton forms; yields the `Traffic`. Stores to bf16 round to nearest even, as a GPU's
    do: Triton's interpreter cuts the bits off."""
    assert os.environ.get("TRITON_INTERPRET") == "1", "tests/conftest.py sets it before Triton is imported"
    traffic = Traffic(cached=tuple(cached))
    builder, executor = interpreter.InterpreterBuilder, interpreter.GridExecutor
    originals = {
        (owner, name): getattr(owner, name)
        for owner, name in (
            (builder, "create_masked_load"),
            (builder, "create_masked_store"),
            (builder, "create_atomic_rmw"),
            (builder, "cast_impl"),
            (executor, "_init_args_hst"),
        )
    }
    load, store, atomic, cast, start = originals.values()

    def touched(pointers, mask):
        addresses = np.broadcast_to(pointers.data, mask.data.shape)[mask.data].astype(np.uint64)
        traffic.check(addresses)
        return addresses, pointers.get_element_ty().primitive_bitwidth // 8 or 1

    def counted_load(self, pointers, mask, *rest):
        traffic.read(*touched(pointers, mask))
        return load(self, pointers, mask, *rest)

    def counted_store(self, pointers, value, mask, *rest):
        addresses, itemsize = touched(pointers, mask)
        traffic.written_bytes += len(addresses) * itemsize
        return store(self, pointers, value, mask, *rest)

    def counted_atomic(self, operation, pointers, value, mask, *rest):
        addresses, itemsize = touched(pointers, mask)
        traffic.read_bytes += len(addresses) * itemsize
        traffic.written_bytes += len(addresses) * itemsize
        return atomic(self, operation, pointers, value, mask, *rest)

    def rounding_cast(self, source, kind):
        if source.dtype.scalar == tl.float32 and kind.scalar == tl.bfloat16:
            rounded = torch.from_numpy(np.ascontiguousarray(source.data)).bfloat16().view(torch.int16)
            data = rounded.numpy().view(np.uint16).reshape(source.data.shape)
            return interpreter.TensorHandle(data, kind.scalar)
        return cast(self, source, kind)

    def started(self, arguments, keywords):
        found = start(self, arguments, keywords)
        traffic.launched([*found[0], *found[1].values()])
        return found

    patches = (counted_load, counted_store, counted_atomic, rounding_cast, started)
    try:
        for (owner, name), patch in zip(originals, patches, strict=True):
            setattr(owner, name, patch)
        with interpreted():
            yield traffic
    finally:
        for (owner, name), original in originals.items():
            setattr(owner, name, original)


def leaves(arguments, dtype=None):
    """The arguments with their floating tensors detached, of that dtype, and wanting gradients; strides are kept."""

    def leaf(x):
        if not isinstance(x, torch.Tensor) or not x.is_floating_point():
            return x
        return (x.detach() if dtype is None else x.detach().to(dtype)).requires_grad_()

    return tree_map(leaf, arguments)


def values_and_gradients(function, arguments):
    """A function's outputs and the gradients of its floating arguments, flat. Outputs are weighed so that each element
    counts differently."""
    outputs = function(*arguments)
    outputs = [outputs] if isinstance(outputs, torch.Tensor) else [x for x in outputs if x is not None]
    weigh = [_weights(x) for x in outputs if x.requires_grad]
    wanted = [x for x in arguments if isinstance(x, torch.Tensor) and x.requires_grad]
    found = torch.autograd.grad([x for x in outputs if x.requires_grad], wanted, weigh, allow_unused=True)
    return [x.detach() for x in outputs], list(found)


def _weights(x):
    generator = torch.Generator().manual_seed(x.numel())
    # Multiples of 1/8 are the same numbers in every dtype.
    return (torch.randint(-8, 9, x.shape, generator=generator) / 8).to(x.dtype)


def assert_equals_reference(op, reference, arguments, cached=()):
    """The Triton form's values and gradients are those of the reference in float64, to the tolerance of their dtype.
    Returns the traffic of forward and backward together."""
    with on_triton(cached) as traffic:
        found = values_and_gradients(op, leaves(arguments))
    with torch.autocast("cpu", enabled=False):
        wanted = values_and_gradients(reference, leaves(arguments, torch.float64))
    for ours, theirs in zip([*found[0], *found[1]], [*wanted[0], *wanted[1]], strict=True):
        assert (ours is None) == (theirs is None)
        if ours is not None:
            assert_near(ours, theirs)
    return traffic


def assert_near(ours, theirs):
    """`ours` is `theirs`, which is float64, to the tolerance of the dtype of ours."""
    assert ours.shape == theirs.shape
    if theirs.numel() == 0:
        return
    tolerance = TOLERANCES[ours.dtype]
    largest = theirs.abs().nan_to_num(0.0, 0.0, 0.0).max().item()
    torch.testing.assert_close(
        ours.double(), theirs, rtol=tolerance, atol=tolerance * largest + CANCELLED, equal_nan=True
    )


def assert_traffic(kernel, op, arguments, cached=(), limit=TRAFFIC_READ_ONCE):
    """Forward and backward each move at least what the cost records say, and at most `limit` times it, and nothing
    outside of their tensors."""
    arguments = leaves(arguments)
    with on_triton(cached) as forward:
        outputs = op(*arguments)
    outputs = [x for x in ([outputs] if isinstance(outputs, torch.Tensor) else outputs) if x is not None]
    wanted = [x for x in arguments if isinstance(x, torch.Tensor) and x.requires_grad]
    with on_triton(cached) as backward:
        torch.autograd.grad(outputs, wanted, [_weights(x) for x in outputs], allow_unused=True)
    for traffic, cost in ((forward, kernel.forward_cost), (backward, kernel.backward_cost)):
        least = cost(*arguments)
        assert least.read_bytes <= traffic.read_bytes <= math.floor(limit * least.read_bytes)
        assert least.written_bytes <= traffic.written_bytes <= math.floor(limit * least.written_bytes)


def assert_one_graph(op, arguments):
    """torch.compile sees the op, forward and backward, as one graph without breaks, and the values do not change."""
    torch._dynamo.reset()
    arguments = leaves(arguments)
    with on_triton():
        plain = values_and_gradients(op, arguments)
        compiled = values_and_gradients(torch.compile(op, fullgraph=True, backend="aot_eager"), arguments)
    torch.testing.assert_close(compiled, plain, rtol=0.0, atol=0.0)


def assert_reference_differentiates(reference, arguments):
    """torch's derivative of the reference is that of finite differences."""
    assert torch.autograd.gradcheck(reference, leaves(arguments, torch.float64), fast_mode=True)


_BUILD = """
import dataclasses, json, sys
from athanor.kernels.ahead import build
from athanor.kernels.kind import KERNELS
print(json.dumps({c.name: dataclasses.asdict(build(c, int(sys.argv[2]))) for c in KERNELS[sys.argv[1]].compiled}))
"""


def built(name, compute_capability=90):
    """What the compiler made of every specialisation that a kernel declares, by name, as in `kernels/ahead.py`."""
    environment = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    command = [sys.executable, "-c", _BUILD, name, str(compute_capability)]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert ended.returncode == 0, ended.stderr[-2000:]
    return json.loads(ended.stdout)


def assert_compiles_well(name, every_access_wide=True):
    """For sm_90 nothing is spilled, a block fits, and global memory is reached 128 bits at a time: in every
    instruction, or in some of each specialisation."""
    for what, made in built(name).items():
        assert made["spilled_bytes"] == 0, (what, made)
        assert made["registers"] <= 255 and made["shared_bytes"] <= 227 * 1024, (what, made)
        least = made["global_accesses"] if every_access_wide else 1
        assert made["wide_accesses"] >= least, (what, made)

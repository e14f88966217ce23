"""How long a training step takes on a GPU that is not here: counted op by op, not assumed as a whole.

A launch takes as long as the slower of its bytes and its products, and never less than its own overhead:

    max(launch_s, bytes / (bandwidth_share x bandwidth), FLOPs / (its share x peak))

and a micro-batch the sum over what the model's own code launches (models/step_count.py). This is the code run eagerly,
one operation after the other: a compiler would fuse some of the elementwise work, and nothing overlaps. The optimizer's
update, about 28 bytes a parameter once in a whole step, and communication between ranks are not in it. Utilisation
counts useful FLOPs alone (models/counts.py): what is recomputed is work, but not useful work.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from athanor.models.counts import Flops
from athanor.models.device import Gpu
from athanor.models.op_cost import Kind, OpCost, Rate
from athanor.models.step_count import StepCount


@dataclass(frozen=True)
class Assumptions:
    """What is taken to be reached of a data sheet's figures, and why. All shares are of the dense bf16 peak.

    `bandwidth_share`: what large elementwise kernels and copies reach of the memory's bandwidth; assumed.
    `launch_s`: the least time from one small eager kernel to the next, the host's work included; assumed.
    `shares`: cuBLAS's bf16 products of this size under the board's power limit, assumed; fp32 products at as much of
    the fp32 peak, which is a fifteenth of the bf16 peak (A100 19.5 of 312, H100 67 of 989 TFLOP/s, data sheets).
    Attention without a mask is FlashAttention-2's, which reaches 35 % of an H100 (Shah et al. 2024, arXiv 2407.08608)
    and less in its backward pass. With a mask torch has its memory-efficient kernel alone, 150 and 100 of 989 TFLOP/s,
    assumed, over scores that causality hides too.
    """

    bandwidth_share: float = 0.85
    launch_s: float = 4e-6
    shares: dict[Rate, float] = field(
        default_factory=lambda: {
            "product": 0.65,
            "fp32 product": 0.65 / 15,
            "attention": 0.35,
            "attention backward": 0.25,
            "masked attention": 150 / 989,
            "masked attention backward": 100 / 989,
        }
    )


ASSUMED = Assumptions()


@dataclass(frozen=True)
class Spent:
    """What the launches of one sort take in a micro-batch."""

    launches: int
    bytes: int
    flops: int
    time_s: float


@dataclass(frozen=True)
class Roofline:
    """Of one micro-batch on one rank; `utilisation` is useful FLOPs over the bf16 peak. What takes longest is first in
    `by_kind` and `by_op`."""

    tokens: int
    time_s: float
    utilisation: float
    launches: int
    host_reads: int
    by_kind: dict[Kind, Spent]
    by_op: dict[str, Spent]

    @property
    def tokens_per_s(self) -> float:
        """Of this rank."""
        return self.tokens / self.time_s


def launch_seconds(cost: OpCost, gpu: Gpu, assumed: Assumptions = ASSUMED) -> float:
    """Of one launch."""
    bytes_s = (cost.read_bytes + cost.written_bytes) / (assumed.bandwidth_share * gpu.memory_bytes_per_s)
    flops_s = cost.flops / (assumed.shares[cost.rate] * gpu.peak_flops_per_s)
    return max(assumed.launch_s, bytes_s, flops_s)


def roofline(count: StepCount, gpu: Gpu, flops: Flops, tokens: int) -> Roofline:
    """What the micro-batch of `tokens` that was counted takes; `flops` are the useful ones of a token."""
    by_kind = _spent(((cost.kind, cost, times) for cost, times in count.launches.items()), gpu)
    time_s = sum(spent.time_s for spent in by_kind.values())
    return Roofline(
        tokens,
        time_s,
        tokens * (flops.forward + flops.backward) / time_s / gpu.peak_flops_per_s,
        sum(count.launches.values()),
        count.host_reads,
        by_kind,
        _spent(((cost.name, cost, times) for cost, times in count.launches.items()), gpu),
    )


def _spent(costs: Iterable[tuple[Any, OpCost, int]], gpu: Gpu) -> dict[Any, Spent]:
    sums: dict[Any, list[float]] = defaultdict(lambda: [0, 0, 0, 0.0])
    for sort, cost, times in costs:
        one = (1, cost.read_bytes + cost.written_bytes, cost.flops, launch_seconds(cost, gpu))
        sums[sort] = [total + times * value for total, value in zip(sums[sort], one, strict=True)]
    found = ((sort, Spent(int(n), int(moved), int(flops), time_s)) for sort, (n, moved, flops, time_s) in sums.items())
    return dict(sorted(found, key=lambda item: -item[1].time_s))

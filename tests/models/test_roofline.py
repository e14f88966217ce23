"""A launch takes the time of its bytes, of its products, or its own; a step is the sum of them."""

from __future__ import annotations

import pytest

from athanor.models.counts import Flops
from athanor.models.device import Gpu
from athanor.models.op_cost import OpCost
from athanor.models.roofline import ASSUMED, launch_seconds, roofline
from athanor.models.step_count import StepCount

GPU = Gpu(peak_flops_per_s=1e14, memory_bytes_per_s=1e12)
WIDE = OpCost("mul", "elementwise", 600_000_000, 250_000_000)  # 1 ms at 85 % of the bandwidth
LARGE = OpCost("mm", "products", 1000, 1000, 130_000_000_000)  # 2 ms at 65 % of the peak
SMALL = OpCost("add", "elementwise", 8, 4)


def test_a_launch_takes_the_longest_of_its_bytes_its_products_and_the_launch():
    assert launch_seconds(WIDE, GPU) == pytest.approx(1e-3)
    assert launch_seconds(LARGE, GPU) == pytest.approx(2e-3)
    assert launch_seconds(LARGE._replace(read_bytes=8_500_000_000), GPU) == pytest.approx(10e-3, rel=1e-5)
    assert launch_seconds(SMALL, GPU) == 4e-6


def test_products_go_at_the_rate_of_their_kind():
    times = {rate: launch_seconds(LARGE._replace(rate=rate), GPU) for rate in ASSUMED.shares}
    assert times["fp32 product"] == pytest.approx(15 * times["product"])
    assert times["product"] < times["attention"] < times["attention backward"] < times["masked attention"]
    assert times["masked attention"] * 150 == pytest.approx(times["masked attention backward"] * 100)


def test_a_micro_batch_is_the_sum_of_its_launches():
    count = StepCount(0, 0, 0, 0, {SMALL: 100, LARGE: 3, WIDE: 2}, host_reads=5)
    found = roofline(count, GPU, Flops(forward=1e7, backward=2e7), tokens=1000)
    assert found.time_s == pytest.approx(3 * 2e-3 + 2 * 1e-3 + 100 * 4e-6)
    assert found.tokens_per_s == pytest.approx(1000 / found.time_s)
    assert found.utilisation == pytest.approx(1000 * 3e7 / found.time_s / 1e14)
    assert (found.launches, found.host_reads) == (105, 5)
    assert list(found.by_kind) == ["products", "elementwise"] and list(found.by_op) == ["mm", "mul", "add"]
    elementwise = found.by_kind["elementwise"]
    assert (elementwise.launches, elementwise.bytes, elementwise.flops) == (102, 2 * 850_000_000 + 1200, 0)
    assert elementwise.time_s == pytest.approx(2.4e-3)
    assert found.by_kind["products"].flops == 3 * LARGE.flops

"""Our own kernels run in a count as on a GPU, and cost what their records say."""

from __future__ import annotations

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from athanor.kernels import kind
from athanor.kernels.swiglu import KERNEL, swiglu
from athanor.models.model_recipe import ModelRecipe
from athanor.models.op_cost import OpCost
from athanor.models.step_count import Watch, count_step

RECIPE = ModelRecipe.model_validate(
    {"family": "vanilla", "vocab_size": 64, "d_model": 16, "n_heads": 2, "n_kv_heads": 2, "head_dim": 8, "d_ff": 24}
    | {"n_layers": 2}
)


def launched(device_type: str) -> dict[str, int]:
    count = count_step(RECIPE, 2, 8, torch.bfloat16, device_type)
    return {cost.name: times for cost, times in count.launches.items() if cost.kind == "kernels"}


def test_a_gpu_takes_the_kernels_and_a_processor_the_references():
    assert launched("cuda")["swiglu"] == launched("cuda")["swiglu_backward"] == 2
    assert launched("cpu") == {}


def test_a_kernel_that_is_switched_off_is_not_counted():
    kind.switch("none")
    try:
        with FakeTensorMode(), Watch([], {}) as watch, kind.counted(watch.kernels.note):
            swiglu(torch.empty(4, 8), torch.empty(4, 8))
        assert {cost.name for cost in watch.launches} == {"silu", "mul"}
    finally:
        kind.switch("all")


def test_every_call_costs_what_the_record_says_of_its_own_arguments_forward_and_backward():
    with FakeTensorMode():
        small, large = ([torch.empty(n, 8, requires_grad=True) for _ in range(2)] for n in (4, 32))
        with Watch([], {}) as watch, kind.counted(watch.kernels.note):
            first, second = swiglu(*small), swiglu(*large)
            torch.autograd.backward((second, first), (torch.empty_like(second), torch.empty_like(first)))
        for arguments in (small, large):
            for name, record in (("swiglu", KERNEL.forward_cost), ("swiglu_backward", KERNEL.backward_cost)):
                cost = record(*arguments)
                entry = OpCost(name, "kernels", cost.read_bytes, cost.written_bytes, cost.flops, "fp32 product")
                assert watch.launches[entry] == 1
    assert sum(watch.launches.values()) == 4

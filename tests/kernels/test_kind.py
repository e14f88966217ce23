"""Kernels are switched by name, for the process; on a CPU nothing but the reference runs."""

import pytest
import torch

from athanor.core.errors import UserError
from athanor.kernels import kind
from athanor.kernels.kind import KERNELS, asked, choice, interpreted, switch, uses_triton


@pytest.fixture(autouse=True)
def all_afterwards():
    yield
    switch("all")


def arguments():
    return torch.ones(2, 3), torch.ones(2, 3)


@pytest.mark.parametrize(
    ("names", "used"), [("all", True), ("none", False), ("swiglu", True), ("cross_entropy, swiglu", True)]
)
def test_the_switch_takes_all_none_or_names(names, used, monkeypatch):
    others = {**KERNELS.table, "cross_entropy": KERNELS["swiglu"]}
    monkeypatch.setitem(KERNELS.__dict__, "table", others)
    switch(names)
    with interpreted():
        assert uses_triton(KERNELS["swiglu"], *arguments()) is used


def test_a_kernel_that_is_not_named_is_off_and_says_so():
    switch("none")
    with interpreted():
        assert choice(KERNELS["swiglu"], *arguments()) == "reference: switched off"


def test_on_a_cpu_the_reference_runs():
    assert choice(KERNELS["swiglu"], *arguments()) == "reference: Triton compiles nothing for a CPU"
    with interpreted():
        pass
    assert not uses_triton(KERNELS["swiglu"], *arguments())


def test_the_environment_wins_over_the_runtime(monkeypatch):
    assert asked("swiglu") == "swiglu"
    monkeypatch.setenv("ATHANOR_KERNELS", "none")
    assert asked("swiglu") == "none"


def test_a_name_that_no_kernel_has_is_one_line_with_the_setting_and_the_name_that_was_meant(monkeypatch):
    with pytest.raises(UserError, match=r"^runtime\.kernels=swigl: no kernel 'swigl': did you mean swiglu\? [^\n]*$"):
        asked("swigl")
    monkeypatch.setenv("ATHANOR_KERNELS", "swiglu,")
    with pytest.raises(UserError, match=r"^ATHANOR_KERNELS=swiglu,: no kernel ''"):
        asked("all")


@pytest.mark.parametrize("name", list(KERNELS))
def test_costs_look_at_no_values_and_examples_are_taken(name, monkeypatch):
    monkeypatch.setattr(kind, "_interpreted", True)
    kernel = KERNELS[name]
    assert kernel.examples and kernel.compiled
    for example in kernel.examples:
        made = example.make(torch.device("meta"), torch.bfloat16)
        assert kernel.refuses(*made) is None
        for cost in (kernel.forward_cost(*made), kernel.backward_cost(*made)):
            assert min(cost.read_bytes, cost.written_bytes, cost.flops) > 0
    assert len({each.name for each in kernel.compiled}) == len(kernel.compiled)

"""Compilation ahead of time counts what the assembler says, and is refused where Triton only interprets."""

import pytest
from kernel_checks import built

from athanor.core.errors import UserError
from athanor.kernels.ahead import build
from athanor.kernels.kind import KERNELS


def test_an_interpreting_process_compiles_nothing(monkeypatch):
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    with pytest.raises(UserError, match="take it out of the environment"):
        build(KERNELS["swiglu"].compiled[0], 90)


def test_accesses_are_counted_by_their_width():
    made = built("swiglu", 80)
    # 1024 elements of 128 threads: 8 each, 16 bytes of bf16 and twice that of fp32; u, v, y and dy, u, v, du, dv
    accesses = {name: (each["global_accesses"], each["wide_accesses"]) for name, each in made.items()}
    assert accesses == {
        "forward bf16": (3, 3),
        "backward bf16": (5, 5),
        "forward fp32": (6, 6),
        "backward fp32": (10, 10),
    }
    assert all(0 < each["registers"] <= 255 and each["spilled_bytes"] == 0 for each in made.values())

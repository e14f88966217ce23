"""Devices: no silent fallback, no invented peak."""

import math

import pytest
import torch

from athanor.core.errors import UserError
from athanor.core.runtime import Runtime
from athanor.kernels.kind import KERNELS, choice, interpreted
from athanor.models.device import choose_device, choose_precision, peak_flops, peak_flops_of, set_up

CPU = torch.device("cpu")


def test_a_process_is_set_up_with_the_threads_and_kernels_of_its_runtime():
    threads, pair = torch.get_num_threads(), (torch.ones(2), torch.ones(2))
    try:
        with interpreted():
            set_up(Runtime(threads=2, kernels="none"))
            assert (torch.get_num_threads(), choice(KERNELS["swiglu"], *pair)) == (2, "reference: switched off")
            set_up(Runtime(kernels="swiglu"))
            assert (torch.get_num_threads(), choice(KERNELS["swiglu"], *pair)) == (2, "Triton")
    finally:
        set_up(Runtime(threads=threads))


def test_auto_takes_what_is_there(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_device("auto") == choose_device("cpu") == CPU
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert choose_device("auto").type == "cuda"


def test_a_missing_gpu_is_refused_in_one_line(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match="device=cuda") as refused:
        choose_device("cuda")
    assert "\n" not in str(refused.value)


def test_bf16_only_where_it_is_native(monkeypatch):
    gpu = torch.device("cuda")
    assert choose_precision("auto", CPU) == torch.float32
    assert choose_precision("bf16", CPU) == torch.bfloat16
    with pytest.raises(UserError, match="precision=fp8, but the CPU has no float8 matrix products"):
        choose_precision("fp8", CPU)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _device: (9, 0))
    assert choose_precision("auto", gpu) == torch.bfloat16
    assert choose_precision("fp32", gpu) == torch.float32
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _device: (7, 5))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _device: "Tesla T4")
    assert choose_precision("auto", gpu) == torch.float32
    with pytest.raises(UserError, match="Tesla T4"):
        choose_precision("bf16", gpu)


@pytest.mark.parametrize(
    ("name", "peak"),
    [
        ("NVIDIA A100-SXM4-80GB", 312e12),
        ("NVIDIA H100 80GB HBM3", 989e12),
        ("NVIDIA H100 PCIe", 756e12),
        ("NVIDIA H200", 989e12),
        ("NVIDIA L40S", 362e12),
        ("NVIDIA L4", 121e12),
        ("NVIDIA GeForce RTX 4090", 165e12),
        ("NVIDIA GeForce RTX 5090", 209e12),
        ("NVIDIA H1000", math.inf),
        ("h100", 989e12),
        ("Some future device", math.inf),
    ],
)
def test_peaks_are_the_data_sheets_and_infinite_when_unknown(name, peak):
    assert peak_flops_of(name) == peak


def test_a_cpu_has_no_peak():
    assert peak_flops(CPU) == math.inf
